"""Hospitals: named data sets, own tables, partitions, cohorts and batches. No TensorFlow.

>>> from tff_hospitals.hospitals import load_dataset
>>> load_dataset("heart_disease").records(train=False)
{'cleveland': 104, 'hungary': 89, 'switzerland': 16, 'va_long_beach': 45}
"""

from __future__ import annotations

from tff_hospitals.hospitals.batches import BatchSchedule
from tff_hospitals.hospitals.catalogue import list_datasets, load_dataset
from tff_hospitals.hospitals.cohorts import Cohorts
from tff_hospitals.hospitals.dataset import HospitalDataset
from tff_hospitals.hospitals.encoding import decode
from tff_hospitals.hospitals.features import Feature, Target
from tff_hospitals.hospitals.hospital import NO_PREPROCESSING, Hospital, Part, Preprocessing, Scaler
from tff_hospitals.hospitals.own_data import own_data
from tff_hospitals.hospitals.partitions import PARTITIONS, Partition, partition
from tff_hospitals.hospitals.schema import Schema
from tff_hospitals.hospitals.schema_files import read_schema
from tff_hospitals.hospitals.secret import DataSecret
from tff_hospitals.hospitals.tables import InvalidTable

__all__ = [
    "NO_PREPROCESSING",
    "PARTITIONS",
    "BatchSchedule",
    "Cohorts",
    "DataSecret",
    "Feature",
    "Hospital",
    "HospitalDataset",
    "InvalidTable",
    "Part",
    "Partition",
    "Preprocessing",
    "Scaler",
    "Schema",
    "Target",
    "decode",
    "list_datasets",
    "load_dataset",
    "own_data",
    "partition",
    "read_schema",
]
