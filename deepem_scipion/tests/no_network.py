# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Python processes that refuse and note every use of the network."""

import os
from pathlib import Path

# Python looks for a module of the name sitecustomize in the folders of PYTHONPATH when it starts.
GUARD = """
import os, socket, sys
def refuse(event, arguments):
    inet = event in ("socket.connect", "socket.sendto", "socket.sendmsg") and arguments[0].family in (
        socket.AF_INET, socket.AF_INET6)
    if inet or event in ("socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "http.client.connect"):
        with open(os.environ["NETWORK_WAS_USED"], "a") as file:
            print(event, arguments[1:], sys.argv, file=file)
        raise PermissionError("no network in this test")
sys.addaudithook(refuse)
"""


def guard(folder):
    """Environment variables for processes, children included; attempts are noted in `used` in the folder."""
    hook = Path(folder) / "no-network"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(GUARD)
    paths = [str(hook), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "NETWORK_WAS_USED": str(Path(folder) / "used")}
