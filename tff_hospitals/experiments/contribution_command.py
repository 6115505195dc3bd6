"""Tells what each hospital adds, by training without it, and how unlike hospitals are.

    tff-hospitals contribution --dataset=heart_disease --run_dir=runs/contribution

A model is trained by all hospitals and by all but each of them, with every seed. Updates of single hospitals are looked
at only where nothing protects them; of a private plan, shifts of labels and columns are told from noised counts
(--counts_noise_multiplier), which are charged, or not at all. Exact ones lie in inside/.
"""

from __future__ import annotations

import pathlib

from absl import flags

from tff_hospitals.experiments import command, flag_groups

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Flags of the question, and those of the plan."""
    flags.DEFINE_string("aggregator", "weighted_mean", "the method: a name that a comparison knows")
    flags.DEFINE_string("robust", None, "rule against bad hospitals, such as trimmed_mean or multi_krum")
    flags.DEFINE_float("target_epsilon", None, "privacy target of a private method")
    flags.DEFINE_list("seeds", ["42", "43", "44"], "seeds; results are means and intervals over them")
    flags.DEFINE_list("left_out", [], "hospitals to leave out in turn; default: each")
    flags.DEFINE_float(
        "counts_noise_multiplier", None, "tell shifts from counts with this noise over their sensitivity"
    )
    flags.DEFINE_string("headline", None, "metric of the contribution; default: as a comparison ranks")
    flag_groups.define_run_flags()
    flag_groups.define_plan_flags()


def run() -> None:
    """Asks what the flags say."""
    from tff_hospitals.foundations.validation import raise_if

    command.need_run_dir()
    options = flag_groups.runtime_options()
    from tff_hospitals.experiments import baselines, method_plans
    from tff_hospitals.experiments.methods import find_methods
    from tff_hospitals.plan import review

    given = flag_groups.given_options()
    if FLAGS.target_epsilon is not None:
        given["target_epsilon"] = FLAGS.target_epsilon
    plan = method_plans.federated_plan(
        FLAGS.aggregator, given, flag_groups.data_options(), flag_groups.model_options(), FLAGS.robust
    )
    raise_if([*flag_groups.tuning_problems(plan.data.name), *review.problems(plan)])
    dataset = baselines.load(plan.data)
    from tff_hospitals.experiments import contribution
    from tff_hospitals.reports import contribution_page, progress

    (method,) = find_methods((FLAGS.aggregator,))
    asked = contribution.Contribution(
        method,
        plan,
        command.numbers("seeds", FLAGS.seeds, int),
        tuple(FLAGS.left_out),
        FLAGS.headline,
        FLAGS.store_updates,
        FLAGS.counts_noise_multiplier,
        FLAGS.max_total_epsilon,
        command.command_line(),
    )
    folder = pathlib.Path(FLAGS.run_dir)
    with progress.job_progress(shown=FLAGS.progress) as display:
        found = contribution.run(
            asked, dataset, folder, runtime=FLAGS.runtime, on_run=display.update, runtime_options=options
        )
    page = contribution_page.write(folder, found)
    print(contribution_page.text(found))
    print(f"report: {page}")
