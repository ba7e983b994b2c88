"""Checks the Debian package: install, upgrade, remove and purge. Runs as checks.py does.

Each check begins without the package and its files. The packages `old` and `new` have the same
contents and different versions.
"""

import pathlib
import pwd
import shutil
import socket
import struct

import host
import report
from host import CONFIG, SERVICE, SOCKET, TLS_SOCKET, Crowd, Stream, get, ok, show, within
from report import check

PACKAGES = pathlib.Path("/checks/out/packages")
OLD, NEW, DEBUG = (PACKAGES / name for name in ("old.deb", "new.deb", "old.ddeb"))
BINARY = pathlib.Path("/usr/bin/fanfare")
BINARY_BYTES_MAX = 12_000_000
STATE = pathlib.Path("/var/lib/fanfare")
JOURNAL = f"""
listen = ["127.0.0.1:8080"]
[drain]
window_ms = 1000
[journal]
path = "{STATE}/journal"
"""


def fresh():
    """Purges the package and deletes what it leaves: the user, and files of an administrator."""
    if installed():
        ok("dpkg", "--purge", "fanfare")
    shutil.rmtree(CONFIG.parent, ignore_errors=True)
    for command in ("userdel", "groupdel"):
        host.run(command, "fanfare")


def install(package=OLD):
    """Installs a package. Without a terminal, dpkg fails if it has a question."""
    return ok("dpkg", "--install", package)


def installed():
    """Returns the state of the package as dpkg has it, such as `installed`, or an empty text."""
    return host.run("dpkg-query", "--show", "--showformat=${db:Status-Status}", "fanfare").stdout


def version():
    return ok("dpkg-query", "--show", "--showformat=${Version}", "fanfare")


def state(unit):
    """Returns whether a unit runs and whether it is enabled, in systemctl's words."""
    words = (host.run("systemctl", verb, unit).stdout for verb in ("is-active", "is-enabled"))
    return tuple(word.strip() for word in words)


def listed(package):
    """Returns the paths of the files in a package."""
    lines = ok("dpkg-deb", "--contents", package).splitlines()
    return {line.split()[5].removeprefix(".") for line in lines if not line.endswith("/")}


def sysctls():
    """Returns the values of a few keys of 99-fanfare.conf."""
    return ok("sysctl", "fs.nr_open", "fs.epoll.max_user_watches", "vm.swappiness")


def section_names(program):
    """Returns the names of the sections of a program (ELF, 64 bits)."""
    start, *_, size, count, names = struct.unpack_from("<Q4xHHHHHH", program, 40)
    heads = [struct.unpack_from("<I20xQ", program, start + at * size) for at in range(count)]
    table = program[heads[names][1] :]
    return {table[name : table.index(b"\0", name)].decode() for name, _ in heads}


@check
def installation_starts_the_server_and_applies_no_sysctl():
    fresh()
    before = sysctls()
    install()
    assert state(SERVICE) == ("active", "enabled"), state(SERVICE)
    for unit in (SOCKET, TLS_SOCKET):
        assert state(unit) == ("inactive", "disabled"), (unit, state(unit))
    assert get() == 200 and get("/readyz", host.ADMIN) == 200
    assert show("ExecMainStatus") == "0" and host.restarts() == 0
    assert sysctls() == before and not any("sysctl.d" in path for path in listed(OLD))
    assert ok("stat", "--format", "%A %U", STATE).split() == ["drwxr-x---", "fanfare"]
    ok("runuser", "--user", "fanfare", "--", "fanfare", "check", CONFIG)
    ok("usermod", "--append", "--groups", "fanfare", "publisher")
    assert host.publish("publisher", "1").returncode == 0
    assert host.publish("stranger", "1").returncode == 1
    assert pwd.getpwnam("fanfare").pw_shell == "/usr/sbin/nologin"
    return f"{version()}, {show('StatusText')}"


@check
def package_has_manuals_completions_recipes_and_licences():
    fresh()
    install()
    assert host.run("dpkg", "--verify", "fanfare").stdout == ""
    paths = listed(OLD)
    for path in (
        "/usr/share/man/man1/fanfare.1.gz",
        "/usr/share/man/man1/fanfare-serve.1.gz",
        "/usr/share/man/man5/fanfare.toml.5.gz",
        "/usr/share/man/man7/fanfare-protocol.7.gz",
        "/usr/share/bash-completion/completions/fanfare",
        "/usr/share/fish/vendor_completions.d/fanfare.fish",
        "/usr/share/zsh/vendor-completions/_fanfare",
        "/usr/share/fanfare/tuning/99-fanfare.conf",
        "/usr/share/fanfare/proxies/nginx.conf",
        "/usr/share/fanfare/prometheus/alerts.yml",
        "/usr/share/fanfare/grafana/dashboard.json",
        "/usr/share/doc/fanfare/copyright",
        "/usr/share/doc/fanfare/CHANGELOG.md",
    ):
        assert path in paths, f"{path} is not in {sorted(paths)}"
    licences = pathlib.Path("/usr/share/doc/fanfare/THIRD-PARTY.txt").read_text()
    for text in (
        "\nrustls 0.",
        "\naws-lc-sys 0.",
        "Permission is hereby granted, free of charge",
        # Code of other authors in folders of crates.
        "Microsoft Corporation",
        "the fiat-crypto authors (see",
    ):
        assert text in licences, text
    ok("bash", "-n", "/usr/share/bash-completion/completions/fanfare")
    assert "would set" in ok("/usr/share/fanfare/tuning/apply", "--dry-run")
    conffiles = ok("dpkg-query", "--show", "--showformat=${Conffiles}", "fanfare").split()
    assert conffiles[::2] == [str(CONFIG)], conffiles
    return f"{len(paths)} files"


@check
def binary_is_small_and_its_debug_information_is_in_a_package_of_its_own():
    fresh()
    install()
    program = BINARY.read_bytes()
    sections = section_names(program)
    assert ".text" in sections and ".debug_line" not in sections, sections
    assert len(program) < BINARY_BYTES_MAX, len(program)
    debug = [path for path in listed(DEBUG) if path.endswith(".debug")]
    assert len(debug) == 1 and debug[0].startswith("/usr/lib/debug/"), debug
    # gdb finds the file by the build id, which is a note in the program.
    build_id = bytes.fromhex("".join(debug[0].removesuffix(".debug").split("/")[-2:]))
    assert b"GNU\0" + build_id in program, debug
    sizes = [f"{name} {path.stat().st_size}" for name, path in (("deb", OLD), ("debug", DEBUG))]
    return f"binary {len(program)} bytes, {', '.join(sizes)} bytes"


@check
def upgrade_keeps_configuration_and_publications_and_refuses_no_client():
    fresh()
    install()
    ok("systemctl", "stop", SERVICE)
    CONFIG.write_text(JOURNAL)
    ok("systemctl", "enable", "--now", SOCKET)
    ok("systemctl", "start", SERVICE)
    pid = host.main_pid()
    stream = Stream()
    ok("fanfare", "publish", "a", '"before"', "--ack", "--feed", host.FEED)
    within(5, "the publication", lambda: "before" in stream.text)
    since = stream.text.split("id: ")[1].split("\n")[0]
    with Crowd(4) as crowd:
        within(5, "the crowd", lambda: crowd.answered > 50)
        install(NEW)
        within(5, "the crowd", lambda count=crowd.answered: crowd.answered > count + 50)
    assert crowd.refused == 0 and crowd.broken == 0, str(crowd)
    assert host.main_pid() not in (0, pid), "not restarted"
    assert CONFIG.read_text() == JOURNAL
    assert state(SOCKET) == ("active", "enabled") and state(SERVICE) == ("active", "enabled")
    assert "retry: " in stream.rest().split("id: ", 1)[1], stream.text
    answer = host.body(f"/poll?channel=a&since={since}&timeout=0")
    assert '"before"' in answer and '"gap":false' in answer, answer
    return f"to {version()}: {crowd}"


@check
def upgrade_does_not_enable_or_start_a_disabled_service():
    fresh()
    install()
    ok("systemctl", "disable", "--now", SERVICE)
    install(NEW)
    assert state(SERVICE) == ("inactive", "disabled"), state(SERVICE)


@check
def package_is_installed_although_the_server_cannot_start():
    fresh()
    with socket.create_server(host.CLIENTS):
        install()
        assert installed() == "installed"
        assert state(SERVICE)[0] != "active"
    within(10, "the server", host.serves)
    CONFIG.write_text("heartbeat = 5\n")
    install(NEW)
    assert installed() == "installed" and state(SERVICE) == ("failed", "enabled"), state(SERVICE)


@check
def removal_stops_the_server_and_keeps_configuration_and_journal():
    fresh()
    install()
    CONFIG.write_text(JOURNAL)
    ok("systemctl", "enable", SOCKET)
    ok("systemctl", "stop", SERVICE)
    ok("systemctl", "start", SOCKET, SERVICE)
    ok("fanfare", "publish", "a", '"kept"', "--ack", "--feed", host.FEED)
    ok("dpkg", "--remove", "fanfare")
    for unit in (SERVICE, SOCKET):
        assert state(unit)[0] == "inactive", (unit, state(unit))
    assert not host.serves() and not BINARY.exists()
    assert CONFIG.read_text() == JOURNAL and (STATE / "journal").is_dir()
    install()
    assert state(SERVICE) == ("active", "enabled"), state(SERVICE)
    assert state(SOCKET) == ("active", "enabled"), state(SOCKET)
    assert '"kept"' in host.body("/poll?channel=a&since=first&timeout=0")


@check
def purge_leaves_the_user_and_the_files_of_the_administrator():
    fresh()
    known = names()
    install()
    ok("systemctl", "enable", SOCKET, TLS_SOCKET)
    ok("dpkg", "--purge", "fanfare")
    left = names() - known
    assert not left, left
    assert pwd.getpwnam("fanfare")
    assert host.run("systemctl", "--failed", "--quiet").stdout == ""
    install()
    secret = CONFIG.parent / "secrets/key.pem"
    secret.parent.mkdir()
    secret.write_text("secret")
    ok("dpkg", "--purge", "fanfare")
    assert secret.read_text() == "secret" and not CONFIG.exists()


@check
def purge_keeps_the_data_of_a_server_that_was_installed_by_hand():
    for path in (
        pathlib.Path("/usr/local/bin/fanfare"),
        pathlib.Path("/etc/systemd/system", SOCKET),
        pathlib.Path("/usr/local/lib/systemd/system", SERVICE),
    ):
        fresh()
        install()
        ok("systemctl", "stop", SERVICE)
        path.parent.mkdir(parents=True, exist_ok=True)
        # An enabled unit is a link, a unit that was installed by hand is a file.
        path.unlink(missing_ok=True)
        path.write_text("")
        kept = STATE / "kept"
        kept.write_text("")
        try:
            ok("dpkg", "--purge", "fanfare")
        finally:
            path.unlink()
        assert kept.exists() and installed() == "", path
        shutil.rmtree(STATE)
    return "a program, a unit and a socket unit"


@check
def purge_deletes_nothing_of_another_file_system():
    for mounted in (STATE, STATE / "backup"):
        fresh()
        install()
        ok("systemctl", "stop", SERVICE)
        (STATE / "journal").mkdir(exist_ok=True)
        mounted.mkdir(exist_ok=True)
        ok("mount", "-t", "tmpfs", "none", mounted)
        try:
            (mounted / "kept").write_text("")
            ok("dpkg", "--purge", "fanfare")
            assert (mounted / "kept").exists() and installed() == "", mounted
            assert mounted == STATE or not (STATE / "journal").exists()
        finally:
            ok("umount", mounted)
        shutil.rmtree(STATE)


@check
def scripts_change_only_the_system_in_dpkg_root():
    fresh()
    install()
    root = pathlib.Path("/run/another-root")
    other = root / STATE.relative_to("/")
    other.mkdir(parents=True)
    pid = host.main_pid()
    scripts = pathlib.Path("/checks/units/deb")
    for script, argument in (("prerm", "remove"), ("postrm", "remove"), ("postrm", "purge")):
        ok("env", f"DPKG_ROOT={root}", "sh", scripts / script, argument)
        assert STATE.exists() and host.main_pid() == pid and state(SERVICE)[1] == "enabled"
    assert not other.exists()
    shutil.rmtree(root)


def names():
    """Returns the paths in the container whose name has the program's name."""
    folders = ["/etc", "/run", "/usr", "/var"]
    # The status is not checked, because files of systemd may end during the search.
    return set(host.run("find", *folders, "-xdev", "-name", "*fanfare*").stdout.split())


def prepare():
    for user in ("publisher", "stranger"):
        ok("useradd", "--no-create-home", user)


report.main(prepare)
