"""A package's name, version and hash in, its archive on disk out; reads pip's settings, installs nothing.

Settings are pip's own: the environment (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, PIP_CERT, PIP_PROXY, ...),
then pip.conf of the virtual environment, the user and the machine. Proxies of the environment hold as everywhere.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from w2s.errors import MachineError

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage

    from w2s.progress import Report

DEFAULT_INDEX = "https://pypi.org/simple"
TRIES = 3


@dataclass(frozen=True)
class Settings:
    """Where pip would look, and how it would get there."""

    indexes: tuple[str, ...] = (DEFAULT_INDEX,)
    links: tuple[str, ...] = ()  # folders or pages with archives
    cert: str | None = None
    client_cert: str | None = None
    proxy: str | None = None
    trusted: tuple[str, ...] = ()  # hosts whose certificates are not checked
    timeout_s: float = 30.0


def pip_files() -> list[Path]:
    """pip's configuration files on this machine; the later one wins."""
    name = "pip.ini" if sys.platform == "win32" else "pip.conf"
    home = Path.home()
    own = os.environ.get("PIP_CONFIG_FILE")
    if own == os.devnull:
        return []
    xdg = [Path(p, "pip", name) for p in os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep) if p]
    machine = [*reversed(xdg), Path("/etc", name)]
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / name
    if sys.platform == "win32":
        machine = [Path(os.environ.get("PROGRAMDATA", "C:\\ProgramData"), "pip", name)]
        config = Path(os.environ.get("APPDATA", str(home)), "pip", name)
    elif sys.platform == "darwin":
        machine = [Path("/Library/Application Support/pip", name)]
        apple = home / "Library" / "Application Support" / "pip"
        config = apple / name if apple.is_dir() else config
    files = [*machine, home / ("pip" if sys.platform == "win32" else ".pip") / name, config, Path(sys.prefix, name)]
    return [*files, Path(own)] if own else files


def pip_settings() -> Settings:
    """What pip's files and environment say. Raises MachineError where a file cannot be parsed."""
    values: dict[str, str] = {}
    for path in pip_files():
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise MachineError(f"{path}: not a pip configuration file: {error}") from None
        for section in ("global", "download", "install"):
            if parser.has_section(section):
                values.update({key.replace("_", "-"): value for key, value in parser.items(section)})
    for key, value in os.environ.items():
        if key.startswith("PIP_") and value:
            values[key[4:].lower().replace("_", "-")] = value
    indexes = (values.get("index-url", DEFAULT_INDEX), *values.get("extra-index-url", "").split())
    no_index = values.get("no-index", "0").strip().lower() in ("1", "true", "yes", "on", "y", "t")
    return Settings(
        indexes=() if no_index else tuple(dict.fromkeys(url.strip().rstrip("/") for url in indexes)),
        links=tuple(values.get("find-links", "").split()),
        cert=values.get("cert") or None,
        client_cert=values.get("client-cert") or None,
        proxy=values.get("proxy") or None,
        trusted=tuple(values.get("trusted-host", "").split()),
        timeout_s=float(values["timeout"]) if re.fullmatch(r"\d+(\.\d+)?", values.get("timeout", "")) else 30.0,
    )


def download(package: str, sha256: str, folder: Path, report: Report | None = None) -> Path:
    """The archive of `name==version` whose listed SHA-256 fits, in `folder`. The caller checks the bytes.

    Raises MachineError where no index has it or none can be reached.
    """
    name, _, version = package.partition("==")
    settings = pip_settings()
    tried: list[str] = []
    with _session(settings) as session:
        for place, packages in _listings(session, settings, name, tried):
            of_version = [p for p in packages if p.version == version]
            fits = [p for p in of_version if p.digests.get("sha256", sha256) == sha256]
            # A listed hash is surer than none, where an index gives hashes for some files only.
            for found in sorted(fits, key=lambda p: "sha256" not in p.digests):
                target = folder / Path(found.filename).name
                _get(session, found, target, settings, report)
                if "sha256" in found.digests or len(fits) == 1 or _sha256_is(target, sha256):
                    return target
                target.unlink()
            others = ", ".join(f"{p.filename} (SHA-256 {p.digests.get('sha256', 'not listed')})" for p in of_version)
            tried.append(f"{place}: of version {version} it has {others or 'no file'}")
    looked = "\n".join(f"  {line}" for line in tried) or "  no index: pip's settings say no-index"
    raise MachineError(
        f"package {package}: no package index gave the archive with SHA-256 {sha256}; looked in\n{looked}\n"
        "check the network, the proxy and pip's index settings (`pip config list`), or copy the cache folder of a "
        "machine where `w2s prefetch` worked and set W2S_CACHE to it"
    )


def shown(url: str) -> str:
    """A URL without the user and password that it may carry."""
    return re.sub(r"//[^/@]*@", "//", url)


@contextlib.contextmanager
def _session(settings: Settings) -> Iterator[Any]:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    with requests.Session() as session:
        adapter = HTTPAdapter(max_retries=Retry(TRIES, backoff_factor=0.5, status_forcelist=(500, 502, 503, 504)))
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        for host in settings.trusted:
            unchecked = _unchecked_adapter()
            session.mount(f"https://{host}/", unchecked)
            session.mount(f"https://{host}:", unchecked)
        if settings.cert:
            session.verify = settings.cert
        if settings.client_cert:
            session.cert = settings.client_cert
        if settings.proxy:
            session.trust_env = False
            session.proxies = {"http": settings.proxy, "https": settings.proxy}
        yield session


def _unchecked_adapter() -> Any:
    """For hosts that pip's settings trust without a certificate; the archive's hash is checked all the same."""
    from requests.adapters import HTTPAdapter

    class Unchecked(HTTPAdapter):
        def send(self, *args: Any, **kwargs: Any) -> Any:
            return super().send(*args, **{**kwargs, "verify": False})

    return Unchecked(max_retries=TRIES)


def _listings(
    session: Any, settings: Settings, name: str, tried: list[str]
) -> Iterator[tuple[str, list[DistributionPackage]]]:
    """What each index and link page says about a package; what cannot be read is noted in `tried`."""
    from pypi_simple import NoSuchProjectError, ProjectPage, PyPISimple

    plain = re.sub(r"[-_.]+", "-", name).lower()
    for url in (*settings.indexes, *settings.links):
        is_link = url in settings.links
        try:
            if local := _local(url):
                yield shown(url), _local_listing(local if is_link else local / plain, name)
            elif is_link:
                page = session.get(url, timeout=settings.timeout_s)
                page.raise_for_status()
                yield shown(url), ProjectPage.from_html(name, page.text, base_url=url).packages
            else:
                client = PyPISimple(url + "/", session=session)
                yield shown(url), client.get_project_page(name, timeout=settings.timeout_s).packages
        except NoSuchProjectError:
            tried.append(f"{shown(url)}: no package {name}")
        except OSError as error:  # requests' errors are OSErrors too
            tried.append(f"{shown(url)}: {_reason(error)}")


def _local(url: str) -> Path | None:
    """The folder that a file:// URL or a plain path names; None for a URL of the network."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if "://" in url else Path(url).expanduser()


def _local_listing(folder: Path, name: str) -> list[DistributionPackage]:
    """The archives of a package that a folder holds, or that its index.html links to. Raises FileNotFoundError."""
    from pypi_simple import DistributionPackage, ProjectPage, UnparsableFilenameError, parse_filename

    page = folder / "index.html"
    if page.is_file():
        html = page.read_text(encoding="utf-8")
        return ProjectPage.from_html(name, html, base_url=page.as_uri()).packages
    plain = re.sub(r"[-_.]+", "-", name).lower()
    found = []
    for path in sorted(folder.iterdir()):
        try:
            project, version, kind = parse_filename(path.name, project_hint=name)
        except UnparsableFilenameError:
            continue
        if re.sub(r"[-_.]+", "-", project).lower() == plain:
            found.append(
                DistributionPackage(
                    filename=path.name,
                    url=path.absolute().as_uri(),
                    project=name,
                    version=version,
                    package_type=kind,
                    digests={},
                    requires_python=None,
                    has_sig=None,
                )
            )
    return found


def _get(session: Any, found: DistributionPackage, target: Path, settings: Settings, report: Report | None) -> None:
    """The bytes of one listed archive. Raises MachineError where they do not come."""
    from pypi_simple import PyPISimple

    title = f"download {target.name}"
    local = _local(found.url)
    if local is not None:
        try:
            shutil.copyfile(local, target)
        except OSError as error:
            raise MachineError(f"{local}: cannot be read: {error.strerror}; check pip's index settings") from None
        return
    for attempt in range(1, TRIES + 1):
        try:
            PyPISimple(session=session).download_package(
                found, target, verify=False, progress=_Progress.of(title, report), timeout=settings.timeout_s
            )
            return
        except OSError as error:
            from requests import RequestException

            if not isinstance(error, RequestException):
                raise  # the disk, not the network
            if attempt == TRIES:
                raise MachineError(
                    f"{shown(found.url)}: the download stopped: {_reason(error)}; check the network and try again"
                ) from None


class _Progress:
    """Passes the bytes that arrived on to `report`."""

    def __init__(self, title: str, report: Report | None, total: int) -> None:
        self.title, self.report, self.total, self.done = title, report, total, 0

    @classmethod
    def of(cls, title: str, report: Report | None) -> Any:
        return lambda total: cls(title, report, total or 0)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, increment: int) -> None:
        self.done += increment
        if self.report is not None:
            self.report(self.title, self.done, self.total)


def _sha256_is(path: Path, sha256: str) -> bool:
    from w2s.disk import file_sha256

    return file_sha256(path) == sha256


def _reason(error: OSError) -> str:
    """What went wrong, in a few words: requests nests the cause in long representations."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    if isinstance(error, FileNotFoundError):
        return "no such folder"
    text = error.strerror or str(error)
    cause = re.search(
        r"(Name or service not known|Connection refused|timed out|Max retries|certificate verify failed"
        r"|Temporary failure in name resolution|Network is unreachable|No route to host)",
        text,
    )
    return cause.group(1) if cause else f"{type(error).__name__}: {text[:200]}"
