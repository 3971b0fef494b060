"""What SLURM's commands inherit, and how their errors read."""

import os

import pytest

from dinoforge.slurm.cluster.commands import clean_environment, one_line


def test_jobs_inherit_only_the_place_of_the_cluster_from_the_job_that_submits_them():
    given = {
        "SLURM_CONF": "/etc/x", "SLURM_CLUSTERS": "a", "SLURM_MEM_PER_NODE": "4",
        "SBATCH_PARTITION": "x", "SLURM_CPU_BIND": "none", "CUDA_VISIBLE_DEVICES": "0",
        "HOME": "/root", "SUBMITIT_EXECUTOR": "slurm",
    }  # fmt: skip
    assert clean_environment(given) == {
        "SLURM_CONF": "/etc/x", "SLURM_CLUSTERS": "a", "HOME": "/root",
    }  # fmt: skip
    assert "SLURM_JOB_ID" not in clean_environment(os.environ | {"SLURM_JOB_ID": "1"})


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "sbatch: error: Invalid account\nsbatch: error: Batch job submission failed",
            "Invalid account; Batch job submission failed",
        ),
        ("sinfo: fatal: Could not establish a configuration source\n", "Could not establish a"),
        ("slurm_load_partitions: Unable to contact", "slurm_load_partitions: Unable to contact"),
    ],
)
def test_an_error_of_slurm_fits_in_a_line_without_its_prefixes(said, line):
    assert one_line(said).startswith(line)
    assert "error: " not in one_line(said)
