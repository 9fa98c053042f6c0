"""What every test shares: one thread, so that numbers repeat and parallel runs do not fight for cores."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)
pytest.register_assert_rewrite("promises.laws")
