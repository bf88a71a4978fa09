//! The server of `bench http`: nginx, with files in memory.
//!
//! What it does beside serving is switched off, and its connections stay open for as long as
//! the other side likes, so that what a run shows is the relay. Files are on a tmpfs that is
//! mounted where only this nginx sees it (`ip netns exec` gives each program a mount namespace
//! of its own), so uploads reach no disk, and nothing is left to unmount.

use std::net::SocketAddrV4;
use std::path::Path;

use super::Error;
use super::netns::installed;
use super::workload::{WORKLOADS, Workload};

/// Whether it can be started here.
pub fn available() -> Result<(), Error> {
    if installed("nginx") {
        return Ok(());
    }
    Err(Error::NotInstalled { program: "nginx", package: "nginx" })
}

/// The path of a body of this size, from the root of the server.
pub fn path(size: usize) -> String {
    format!("/{size}")
}

/// The command line that serves at `at`, its configuration written beforehand. `$0` is the
/// directory of the configuration, the other arguments are sizes.
pub fn command(scratch: &Path, at: SocketAddrV4) -> Result<Vec<String>, Error> {
    const SCRIPT: &str = "mkdir -p \"$0/www\" && mount -t tmpfs tmpfs \"$0/www\" && \
        for size; do head -c $size /dev/zero >\"$0/www/$size\" || exit; done && \
        exec nginx -c \"$0/origin.conf\" -p \"$0\" -e stderr";
    let config = scratch.join("origin.conf");
    std::fs::write(&config, configuration(scratch, at))
        .map_err(Error::io(format!("write {}", config.display())))?;
    let sizes = WORKLOADS.iter().filter_map(|(_, workload)| match workload {
        Workload::Http { size, .. } => Some(size.to_string()),
        _ => None,
    });
    let argv = ["sh", "-c", SCRIPT, &scratch.to_string_lossy()].map(str::to_owned);
    Ok(argv.into_iter().chain(sizes).collect())
}

/// A PUT writes its body into a file beside the others and renames it.
fn configuration(scratch: &Path, at: SocketAddrV4) -> String {
    let scratch = scratch.display();
    format!(
        "daemon off;\nuser root;\nworker_processes 2;\nerror_log stderr crit;\npid {scratch}/origin.pid;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n access_log off;\n sendfile on;\n tcp_nopush on;\n\
         open_file_cache max=16 inactive=1h;\n\
         keepalive_requests 1000000000;\n keepalive_timeout 1h;\n\
         client_max_body_size 0;\n client_body_temp_path {scratch}/www/bodies;\n\
         proxy_temp_path {scratch}/www/p;\n fastcgi_temp_path {scratch}/www/f;\n\
         uwsgi_temp_path {scratch}/www/u;\n scgi_temp_path {scratch}/www/s;\n\
         server {{ listen {at}; root {scratch}/www; location /put/ {{ dav_methods PUT; create_full_put_path on; }} }}\n}}\n"
    )
}
