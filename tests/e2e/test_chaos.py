"""Random things happen to a captured server. Every change is in the log, or lies in a gap that says so, and no gap is claimed without need."""

from chaos import Chaos


def test_everything_once_in_any_order(tmp_path):
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    chaos = Chaos(tmp_path, seed=7)
    try:
        chaos.go_on()
    finally:
        chaos.server.stop("immediate")
