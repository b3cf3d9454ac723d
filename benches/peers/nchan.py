"""nginx with nchan: channels in memory that browsers follow by Server-Sent Events."""

from pathlib import Path

from process import answers

from . import Peer, first_line

MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

CONFIG = """
load_module {module};
daemon off;
worker_processes auto;
worker_rlimit_nofile 20000;
pid {data}/nginx.pid;
error_log {data}/error.log;
events {{ worker_connections 15000; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {data}/body;
    proxy_temp_path {data}/proxy;
    fastcgi_temp_path {data}/fastcgi;
    uwsgi_temp_path {data}/uwsgi;
    scgi_temp_path {data}/scgi;
    nchan_shared_memory_size 1024M;
    nchan_message_buffer_length 20000;
    nchan_message_timeout 60s;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /ready {{ return 200; }}
        location ~ ^/publish/(.+)$ {{ nchan_publisher; nchan_channel_id $1; }}
        location ~ ^/follow/(.+)$ {{
            nchan_subscriber eventsource;
            nchan_channel_id $1;
            nchan_subscriber_first_message newest;
        }}
    }}
}}
"""


class Nchan(Peer):
    name, protocol, program = "nginx with nchan", "nchan", "nginx"
    remark = "keeps messages in memory only"

    def __init__(self):
        super().__init__()
        if not MODULE.is_file():
            self.path = None

    def version(self):
        return first_line(self.path, "-v").replace("nginx version: ", "")

    def command(self, data, port):
        config = data.with_suffix(".conf")
        config.write_text(CONFIG.format(port=port, data=data, module=MODULE))
        return [self.path, "-p", data, "-c", config, "-e", data / "error.log"]

    def ready(self, server):
        return answers(server.port, "GET", "/ready")[0] == 200
