//! What the peers are configured to do.
//!
//! They run as their documentation says for a plain proxy: as many workers as
//! the machine has processors (two here), no logs, timeouts out of the way, all
//! else at the default, or at what measured better than the default where a
//! careful operator would turn it. A peer slowed by its configuration would
//! make a good-looking table and a false one.

use std::net::SocketAddrV4;
use std::path::Path;

use super::super::workload::Protocol;

/// Where Debian's libnginx-mod-stream puts its module.
pub const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Connections that a relay can hold with so many descriptors, two for each,
/// with room for its own, its pipes and its listeners.
pub fn connections_max(descriptors: u64) -> u64 {
    descriptors.saturating_sub(1000) / 2
}

/// Sessions that a relay, one descriptor for each, or the client can hold.
pub fn sessions_max(descriptors: u64) -> u64 {
    descriptors.saturating_sub(1000).min(50_000)
}

/// HAProxy refuses to start if `2 * (maxconn + maxpipes)` and a few do not fit
/// the descriptor limit, so both are made to.
pub fn haproxy(
    protocol: Protocol,
    splice: bool,
    descriptors: u64,
    listen: SocketAddrV4,
    target: SocketAddrV4,
) -> String {
    let maxconn = connections_max(descriptors).min(30_000) + 50;
    let (global, option) = if splice {
        ("maxpipes 256", "option splice-request\n option splice-response")
    } else {
        ("nosplice", "")
    };
    let mode = match protocol {
        Protocol::Http => "mode http\n http-reuse always\n timeout http-keep-alive 1h",
        Protocol::Tcp | Protocol::Udp => "mode tcp",
    };
    format!(
        "global\n nbthread 2\n tune.bufsize 65536\n maxconn {maxconn}\n {global}\n\
         defaults\n {mode}\n timeout connect 10s\n timeout client 1h\n timeout server 1h\n {option}\n\
         listen bench\n bind {listen}\n server s {target}\n"
    )
}

/// nginx as a proxy of this protocol.
pub fn nginx(
    scratch: &Path,
    protocol: Protocol,
    descriptors: u64,
    listen: SocketAddrV4,
    target: SocketAddrV4,
) -> String {
    match protocol {
        Protocol::Tcp => nginx_stream(scratch, 32_768, &listen.to_string(), target),
        // A UDP session takes two of nginx's connections and one descriptor, and the kernel may
        // hand one worker more than its half.
        Protocol::Udp => {
            let connections = 2 * sessions_max(descriptors) + 1000;
            nginx_stream(scratch, connections, &format!("{listen} udp reuseport"), target)
        }
        Protocol::Http => nginx_http(scratch, listen, target),
    }
}

fn nginx_stream(scratch: &Path, connections: u64, listening: &str, target: SocketAddrV4) -> String {
    let scratch = scratch.display();
    format!(
        "load_module {NGINX_STREAM};\ndaemon off;\nworker_processes 2;\n\
         error_log stderr crit;\npid {scratch}/nginx.pid;\n\
         events {{ worker_connections {connections}; }}\n\
         stream {{ server {{ listen {listening}; proxy_pass {target}; proxy_timeout 1h; proxy_buffer_size 64k; }} }}\n"
    )
}

/// Without `proxy_max_temp_file_size 0` and `proxy_request_buffering off` large bodies would go
/// through files.
fn nginx_http(scratch: &Path, listen: SocketAddrV4, target: SocketAddrV4) -> String {
    let scratch = scratch.display();
    format!(
        "daemon off;\nuser root;\nworker_processes 2;\nerror_log stderr crit;\npid {scratch}/nginx.pid;\n\
         events {{ worker_connections 32768; }}\n\
         http {{\n access_log off;\n keepalive_requests 1000000000;\n keepalive_timeout 1h;\n\
         client_max_body_size 0;\n client_body_temp_path {scratch}/b;\n proxy_temp_path {scratch}/p;\n\
         fastcgi_temp_path {scratch}/f;\n uwsgi_temp_path {scratch}/u;\n scgi_temp_path {scratch}/s;\n\
         proxy_http_version 1.1;\n proxy_set_header Connection \"\";\n\
         proxy_max_temp_file_size 0;\n proxy_request_buffering off;\n\
         upstream origin {{ server {target}; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 1h; }}\n\
         server {{ listen {listen}; location / {{ proxy_pass http://origin; }} }}\n}}\n"
    )
}
