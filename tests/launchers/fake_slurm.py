"""SLURM's commands on one machine, as far as the launcher uses them: sbatch, srun, scontrol, sacct.

One file under four names on the PATH. $FAKE_SLURM holds a folder for each job, with its state.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    array = re.search(r"--array=0-(\d+)", text)
    job = str(100 + len(list(STATE.glob("*.sh"))))
    copy = STATE / f"{job}.sh"
    copy.write_text(text)
    for task in range(int(array[1]) + 1) if array else [None]:
        name = job if task is None else f"{job}_{task}"
        (STATE / name).mkdir()
        report(STATE / name, "PENDING")
        more = {"SLURM_JOB_ID": job, "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
        if task is not None:
            more |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(task)}
        words = [sys.executable, __file__, "run", name, str(copy)]
        subprocess.Popen(
            words, env={**os.environ, **more}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
    print(f"Submitted batch job {job}")


def run(name: str, script: str) -> None:
    """One job, as often as it is queued again: by `scontrol requeue`, or by SLURM itself."""
    while True:
        report(STATE / name, "RUNNING")
        code = subprocess.run(["bash", script]).returncode
        if not (STATE / name / "requeue").exists():
            break
        (STATE / name / "requeue").rename(STATE / name / "requeued")
    if (STATE / name / "state").read_text() != "CANCELLED":
        report(STATE / name, "FAILED" if code else "COMPLETED")


def srun(*words: str) -> None:
    start = next(i for i, word in enumerate(words) if "python" in Path(word).name)
    logs = dict(zip(words[1 : start - 1 : 2], words[2:start:2], strict=True))  # behind --unbuffered
    job, task = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_ARRAY_TASK_ID", "")
    places = {"%A": job, "%a": task, "%j": job, "%t": "0"}
    opened = [re.sub("%[Aajt]", lambda match: places[match[0]], logs[key]) for key in ("--output", "--error")]
    for number, path in enumerate(opened, start=1):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.execv(words[start], words[start:])


def scontrol(action: str, *words: str) -> None:
    job = words[-1]
    if action == "show":
        print(f"JobId={job} JobName=saemd\n   JobState={(STATE / job / 'state').read_text()} Reason=None")
        return
    assert action == "requeue"
    (STATE / job / "requeue").touch()
    (STATE / job / "by itself").touch()


def sacct(*_: str) -> None:
    print("JobID|State|NodeList")
    for folder in STATE.iterdir():
        if folder.is_dir():
            print(f"{folder.name}|{(folder / 'state').read_text()}|here")


def report(job: Path, state: str) -> None:
    (job / "state.new").write_text(state)
    os.replace(job / "state.new", job / "state")


if __name__ == "__main__":
    STATE = Path(os.environ["FAKE_SLURM"])
    commands = {"sbatch": sbatch, "srun": srun, "scontrol": scontrol, "sacct": sacct}
    if sys.argv[1] == "run":  # what sbatch starts
        run(*sys.argv[2:])
    else:
        commands[Path(sys.argv[0]).name](*sys.argv[1:])
