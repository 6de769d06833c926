"""Where metrics go. Lightning and wandb are imported only when a logger needs them."""

from saemd.logging.config import LoggerConfig
from saemd.logging.folders import log_quality, log_stability
from saemd.logging.loggers import finish, log_summary, make_logger, run_id

__all__ = ["LoggerConfig", "finish", "log_quality", "log_stability", "log_summary", "make_logger", "run_id"]
