import pytest


@pytest.mark.parametrize("name", ["clip", "medclip", "mgca", "egma_mask_gaze", "egma_no_gaze"])
def test_run(name, run_tiny, tmp_path):
    run_tiny("run", tmp_path, (name,))
    print((tmp_path / "stage1" / "metrics.csv").read_text())
    print((tmp_path / "stage2" / "plan.json").read_text()[-900:])
