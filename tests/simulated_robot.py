"""A robot in a process of its own: a point on a line, behind a socket on the loopback interface.

`python simulated_robot.py PLAN` prints its port, and then serves one connection after another. PLAN is a JSON object:
what goes wrong at the n-th action that it is sent, counted over all connections: a number of seconds (the answer is
late), "drop" (there is none) or "crash" (the process ends). What it is sent is a JSON line, and so is its answer; both
have the number of the message.
"""

import json
import os
import socket
import sys
import time


def serve(plan: dict[str, float | str]) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    position, actions = 0.0, 0
    while True:
        connection, _ = server.accept()
        with connection, connection.makefile("rw") as stream:
            for line in stream:
                message = json.loads(line)
                fault = None
                if "action" in message:
                    actions += 1
                    fault = plan.get(str(actions))
                    position += 0.1 * message["action"]
                elif "go_to" in message:
                    position = message["go_to"]
                if fault == "crash":
                    os._exit(1)
                if fault == "drop":
                    continue
                time.sleep(fault or 0.0)
                stream.write(json.dumps({"number": message["number"], "position": position, "actions": actions}) + "\n")
                stream.flush()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
