"""Whether this machine has a W&B key (known without a network call), and whether the W&B server can be reached."""

import configparser
import netrc
import os
import warnings
from pathlib import Path
from urllib.parse import urlsplit

from saemd.errors import UserError, bad_value
from saemd.logging.config import LoggerConfig


def resolve_mode(config: LoggerConfig) -> str:
    """`online`, `offline` or `disabled`. `auto` obeys WANDB_MODE, else it is online where there are credentials."""
    if config.mode != "auto":
        return config.mode
    mode = os.environ.get("WANDB_MODE", "")
    mode = {"run": "online", "dryrun": "offline"}.get(mode, mode)
    if mode in ("online", "offline", "disabled"):
        return mode
    return "online" if has_credentials() else "offline"


def check_account(config: LoggerConfig) -> None:
    """Raise `UserError` where runs are to be logged to W&B online and there is no key, or no server."""
    if config.name != "wandb" or resolve_mode(config) != "online":
        return
    if not has_credentials():
        remedy = "no W&B key is on this machine; run `wandb login`, set WANDB_API_KEY, or use logger.mode=offline"
        raise bad_value("logger.mode", config.mode, remedy)
    reach(server())


def has_credentials() -> bool:
    """Whether wandb finds an API key or an identity token: in the environment, its settings file or netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb

    hosts = {urlsplit(server()).netloc}
    if server() == wandb.Settings().base_url:
        hosts.add("api.wandb.ai")  # the host under which older versions of wandb store the key
    return bool(_wandb_settings().get("api_key")) or _netrc_has_key(hosts)


def server() -> str:
    """Address of the W&B server: the configured one, or else wandb's own."""
    import wandb

    return os.environ.get("WANDB_BASE_URL") or _wandb_settings().get("base_url") or wandb.Settings().base_url


def reach(url: str) -> None:
    """Raise `UserError` where nothing answers at `url`. Any answer counts.

    wandb itself would retry for minutes, and once more when the process ends.
    """
    import requests

    try:
        requests.head(url, timeout=10)
    except requests.RequestException as error:
        reason = type(error).__name__
        raise UserError(f"W&B at {url} cannot be reached ({reason}): use logger.mode=offline, or go online") from error


def _wandb_settings() -> dict[str, str]:
    folder = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(folder / "settings")
    return dict(parser["default"]) if parser.has_section("default") else {}


def _netrc_has_key(hosts: set[str]) -> bool:
    default = Path("~/.netrc").expanduser()
    path = Path(os.environ["NETRC"]).expanduser() if os.environ.get("NETRC") else default
    if not path.is_file():
        return False
    try:
        entries = netrc.netrc(str(path))
    except netrc.NetrcParseError as error:
        warnings.warn(f"{path} cannot be read ({error}): no W&B key is taken from it", stacklevel=2)
        return False
    return any((entries.authenticators(host) or ("", "", ""))[2] for host in hosts)
