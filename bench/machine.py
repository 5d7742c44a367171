"""What a number depends on besides the code: the machine, its kernel and its settings."""
import glob
import os
import platform
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SYSCTLS = ("net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem", "net/core/somaxconn", "net/ipv4/tcp_congestion_control",
           "kernel/sched_autogroup_enabled", "vm/max_map_count")


def _read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return " ".join(f.read().split())
    except OSError:
        return None


def cpu_model():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        for line in f:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown CPU"


def one_line():
    return f"{cpu_model()}, {os.cpu_count()} cores, Linux {platform.release()}"


def load():
    return os.getloadavg()[0]


def commit():
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True,
                          check=False)
    return done.stdout.strip() or "unknown"


def facts():
    """Everything worth keeping beside a result, as text by name; what this kernel does not have is left out."""
    memory = int(_read("/proc/meminfo").split()[1]) // 1024
    found = {"cpu": cpu_model(), "cores": str(os.cpu_count()), "memory": f"{memory} MiB",
             "kernel": platform.release(), "libc": " ".join(platform.libc_ver()),
             "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
             "smt": _read("/sys/devices/system/cpu/smt/active"),
             "transparent huge pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
             "huge pages for shared memory": _read("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
             "loadavg": _read("/proc/loadavg")}
    for name in SYSCTLS:
        found[name.replace("/", ".")] = _read("/proc/sys/" + name)
    held = {os.path.basename(p): _read(p) for p in sorted(glob.glob("/sys/devices/system/cpu/vulnerabilities/*"))}
    found["mitigations"] = "; ".join(f"{k}: {v}" for k, v in held.items() if v and v != "Not affected") or "none"
    return {k: v for k, v in found.items() if v}
