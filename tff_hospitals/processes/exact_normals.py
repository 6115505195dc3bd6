"""Standard normal numbers from keys, bit for bit the same with XLA and without.

TensorFlow's own stateless normals differ between compiled and plain graphs, and take as long as the gradient of a
private step. These are made so that no compiler can change them:

* whole-number operations alone, a Threefry-2x32 cipher of 20 rounds over a counter, make two words for each pair;
* Box and Muller's formula with polynomials makes the words a pair of normals. Wherever a compiler could merge a product
  and a sum into one rounding, the product passes through a whole-number operation that it cannot see through, and no
  two sums follow each other that it could take in another order.

A number is right to 3e-7 of the norm of its pair, or of one deviation if that is larger; none lies beyond 6.7.

Sources: Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", doi:10.1145/2063384.2063405;
Box and Muller 1958, "A note on the generation of random normal deviates", doi:10.1214/aoms/1177706645.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_GROUPS = 5  # of four rounds
_PARITY = 0x1BD11BDA
_ALL_ONES = 0xFFFFFFFF

# (log(1 + t) - t + t**2 / 2) / t**3 on [1/sqrt(2) - 1, sqrt(2) - 1], right to 3e-8; highest power first.
_LOGARITHM = (
    0.0716017410159111, -0.1158672571182251, 0.11664743721485138, -0.12409189343452454, 0.1424945890903473,
    -0.16668543219566345, 0.20000721514225006, -0.24999988079071045, 0.3333333134651184,
)  # fmt: skip
# sin(pi / 2 * y) / y as a polynomial of y**2 on [0, 1], right to 3e-11.
_SINE = (
    -3.4318293273827294e-06, 0.00016025469813030213, -0.004681657999753952, 0.07969260215759277, -0.6459640860557556,
    1.5707963705062866,
)  # fmt: skip
# cos(pi / 2 * y) as a polynomial of y**2 on [0, 1], right to 3e-10.
_COSINE = (
    -2.3824535674066283e-05, 0.0009177238680422306, -0.02086268737912178, 0.2536693215370178, -1.2337005138397217, 1.0,
)  # fmt: skip
_SQUARE_ROOT_OF_HALF = 0x3F3504F3  # as float32 bits
_LOG2_HIGH, _LOG2_LOW = 0.693359375, 2.12194440e-4  # log(2) = high - low; times a small whole number, high is exact


class Words(NamedTuple):
    """Two or four uint32 tensors."""

    first: tf.Tensor
    second: tf.Tensor


def exact_normals(key: tf.Tensor, stream: tf.Tensor, position: tf.Tensor, count: int) -> tf.Tensor:
    """float32 [..., count] standard normal numbers; compiled by XLA where the platform has it.

    Args:
      key: int64 [..., 2], one stream of numbers for each.
      stream, position: int32 [...], further parts of the key.
      count: how many numbers of each stream, below 2**31.
    """
    return _compiled(key, tf.broadcast_to(stream, key.shape[:-1]), tf.broadcast_to(position, key.shape[:-1]), count)


def threefry(key: Words, counter: Words) -> Words:
    """The cipher: two uint32 words of any shape from two words of key and two of counter.

    >>> zero = tf.constant(0, tf.uint32)
    >>> [hex(int(word)) for word in threefry(Words(zero, zero), Words(zero, zero))]
    ['0x6b200159', '0x99ba4efe']
    """
    schedule = (key.first, key.second, _xor(_xor(key.first, key.second), _word(_PARITY)))
    first, second = counter.first + schedule[0], counter.second + schedule[1]
    for group in range(_GROUPS):
        for bits in _ROTATIONS[group % 2]:
            first = first + second
            second = _xor(tf.bitwise.bitwise_or(_left(second, bits), _right(second, 32 - bits)), first)
        first = first + schedule[(group + 1) % 3]
        second = second + (schedule[(group + 2) % 3] + _word(group + 1))
    return Words(first, second)


def normals_of_words(words: Words, disguise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Two independent float32 normals from two random words (Box and Muller).

    Args:
      words: uint32 [...].
      disguise: int32, 0 or 1, of which a compiler cannot know that it is 0.
    """

    def product(left: Any, right: Any) -> tf.Tensor:
        return tf.bitcast(_xor(tf.bitcast(left * right, tf.int32), disguise), tf.float32)

    def polynomial(coefficients: Sequence[float], value: tf.Tensor) -> tf.Tensor:
        total = product(coefficients[0], value) + coefficients[1]
        for coefficient in coefficients[2:]:
            total = product(total, value) + coefficient
        return total

    # u = (whole + 1/2) / 2**31 = 2**exponent * (1 + t). Close to one, t comes from the exact distance to one.
    whole = tf.bitcast(_right(words.first, 1), tf.int32)
    bits = tf.bitcast(tf.cast(whole, tf.float32) + 0.5, tf.int32)
    exponent = tf.bitwise.right_shift(bits - _SQUARE_ROOT_OF_HALF, 23)
    mantissa = tf.bitcast(bits - tf.bitwise.left_shift(exponent, 23), tf.float32)
    distance = product(tf.cast(0x7FFFFFFF - whole, tf.float32) + 0.5, 2.0**-31)
    t = tf.where(tf.equal(exponent, 31), -distance, mantissa - 1.0)
    power = tf.cast(exponent - 31, tf.float32)
    square = product(t, t)
    cube_term = product(product(polynomial(_LOGARITHM, t), t), square)
    logarithm = ((cube_term - product(square, 0.5)) + t) - product(power, _LOG2_LOW) - product(power, -_LOG2_HIGH)
    radius = tf.sqrt(tf.maximum(product(logarithm, -2.0), 0.0))
    # The angle is pi * v to either side, v = (other + 1/2) / 2**31. Its cosine is sin(pi / 2 * y) and the size of its
    # sine cos(pi / 2 * y) with y = 1 - 2 v, an odd number over 2**31; the lowest bit says to which side.
    odd = (0x3FFFFFFF - tf.bitcast(_right(words.second, 1), tf.int32)) * 2 + 1
    y = product(tf.cast(odd, tf.float32), 2.0**-31)
    squared = product(y, y)
    first = product(radius, product(y, polynomial(_SINE, squared)))
    second = product(radius, polynomial(_COSINE, squared))
    return first, tf.bitcast(_xor(tf.bitcast(second, tf.uint32), _left(words.second, 31)), tf.float32)


def _draw(key: tf.Tensor, stream: tf.Tensor, position: tf.Tensor, count: int) -> tf.Tensor:
    derived = _derive(tf.bitcast(key, tf.uint32), tf.bitcast(tf.stack([stream, position], axis=-1), tf.uint32))
    words = [derived[..., part, tf.newaxis] for part in range(4)]
    numbers = tf.bitcast(tf.range(-(-count // 2)), tf.uint32)
    zeros = tf.zeros_like(numbers)
    disguise = tf.cast(tf.equal(words[3], _word(0x5BD1E995)), tf.int32)  # one in four billion keys
    drawn = threefry(Words(words[0] + zeros, words[1] + zeros), Words(words[2] + zeros, words[3] + numbers))
    pairs = normals_of_words(drawn, disguise)
    # Both in one 64-bit number: XLA would otherwise run the cipher once for each half of the result.
    low, high = (tf.cast(tf.bitcast(one, tf.uint32), tf.uint64) for one in pairs)
    packed = tf.bitwise.bitwise_or(low, tf.bitwise.left_shift(high, tf.constant(32, tf.uint64)))
    unpacked = tf.bitcast(packed, tf.float32)
    return tf.reshape(unpacked, [*unpacked.shape[:-2], -1])[..., :count]


def _derive(words: tf.Tensor, path: tf.Tensor) -> tf.Tensor:
    """uint32 [..., 4] from a key uint32 [..., 2, 2] and a path uint32 [..., 2]: each half enciphers the other."""
    other = tf.reverse(words, [-2])
    counter = Words(
        _xor(other[..., 0], path[..., 0, tf.newaxis]),
        _xor(_xor(other[..., 1], path[..., 1, tf.newaxis]), tf.constant([0, _ALL_ONES], tf.uint32)),
    )
    first, second = threefry(Words(words[..., 0], words[..., 1]), counter)
    return tf.concat([first, second], axis=-1)


_compiled = tf.function(_draw, jit_compile=True, autograph=False)
_xor = tf.bitwise.bitwise_xor


def _word(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint32)


def _left(words: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.left_shift(words, _word(bits))


def _right(words: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.right_shift(words, _word(bits))
