"""Where metrics go: `make_logger` before training, `finish` after it, `log_stability` after a sweep.

Lightning and wandb are imported only when a logger needs them.
"""

from saemd.logging.config import LoggerConfig
from saemd.logging.loggers import finish, log_summary, make_logger, run_id, run_name
from saemd.logging.stability import log_stability

__all__ = ["LoggerConfig", "finish", "log_stability", "log_summary", "make_logger", "run_id", "run_name"]
