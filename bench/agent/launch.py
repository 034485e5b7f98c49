"""Start one command, wait for it, and write on the last line of stdout what it has cost."""

import json
import os
import sys
import time

started = time.perf_counter()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
cost = {
    "code": os.waitstatus_to_exitcode(status),
    "seconds": time.perf_counter() - started,
    "cpu_s": usage.ru_utime + usage.ru_stime,
    "peak_kib": usage.ru_maxrss,
}
print("\n" + json.dumps(cost))
