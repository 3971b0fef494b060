"""Who owns a plan: the first job whose element claims it; a double of that job does nothing."""

import os
import secrets

from dinoforge.errors import DinoforgeError
from dinoforge.slurm.store.layout import SlurmFolder

__all__ = ["DUPLICATE", "claim", "read_claim"]

DUPLICATE = 23  # exit code of a job whose plan another one has claimed


def claim(folder: SlurmFolder, name: str, job: str) -> bool:
    """Claim a plan for a job id; False when another job has it (then this one is a double)."""
    path = folder.claim(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = read_claim(folder, name)
    if owner is None:
        # Written aside and linked: whoever reads the claim reads all of it.
        draft = path.with_name(f".{name}.tmp-{job}-{os.getpid()}-{secrets.token_hex(4)}")
        draft.write_text(job, encoding="ascii")
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        except OSError as error:
            raise DinoforgeError(f"cannot claim {path}: {error}") from error
        finally:
            draft.unlink(missing_ok=True)
        owner = read_claim(folder, name)
    return owner == job


def read_claim(folder: SlurmFolder, name: str) -> str | None:
    """Id of the job that owns a plan; None when none has started."""
    try:
        return folder.claim(name).read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
