//! The plugin from start to end: launched by containerd, or connecting to it.

use std::env;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::plugin::Plugin;
use super::proto::nri::RegisterPluginRequest;
use super::session::{self, Error};
use crate::journal::Level;
use crate::pod::Context;
use crate::sys::{process, socket};

#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// `--socket`, or its default.
    pub socket: PathBuf,
    /// Whether `--socket` was given, so that an inherited socket does not count.
    pub socket_given: bool,
    /// `--name`, or argv[0]'s.
    pub name: String,
    /// `--index`, or argv[0]'s: two digits, in the order of which plugins are called.
    pub index: String,
    pub config: Option<PathBuf>,
    pub log_level: Option<Level>,
}

/// Is the plugin. Returns when the runtime that has launched it is gone, or on an error that would stay.
pub fn run(options: Options) -> Result<(), String> {
    match env::var("NRI_PLUGIN_SOCKET") {
        Ok(fd) if !options.socket_given => launched(options, &fd),
        _ => external(options),
    }
}

fn registration(name: String, index: String) -> RegisterPluginRequest {
    RegisterPluginRequest { plugin_name: name, plugin_idx: index, ..Default::default() }
}

/// containerd has started us, and is at the other end of an inherited socket.
fn launched(options: Options, fd: &str) -> Result<(), String> {
    let fd = fd.parse().map_err(|_| format!("NRI_PLUGIN_SOCKET is {fd:?}, not a file descriptor"))?;
    let socket = socket::inherited(fd).map_err(|e| format!("NRI_PLUGIN_SOCKET, descriptor {fd}: {e}"))?;
    let or_given = |name, given| env::var(name).unwrap_or(given);
    let name = or_given("NRI_PLUGIN_NAME", options.name);
    let registration = registration(name, or_given("NRI_PLUGIN_IDX", options.index));
    let mut plugin = Plugin::new(options.config, Vec::new(), options.log_level);
    let end = session::run(socket, &registration, &mut plugin).map_err(|e| e.to_string());
    match &end {
        Ok(()) => plugin.journal.say(Level::Info, "the runtime closed the connection"),
        // stderr leads nowhere here.
        Err(message) => plugin.journal.say(Level::Error, message),
    }
    end
}

/// Somebody else has started us: connect, and again when the runtime restarts.
fn external(options: Options) -> Result<(), String> {
    const PAUSE: Duration = Duration::from_millis(500);
    if let Some(path) = &options.config {
        // Said at once, not when there is a runtime.
        File::open(path).doing(format_args!("read {}", path.display()))?;
    }
    let names = [format!("{}-{}", options.index, options.name), options.name.clone()];
    let drop_ins = names.map(|name| Path::new("/etc/nri/conf.d").join(format!("{name}.conf"))).into();
    let mut plugin = Plugin::new(options.config, drop_ins, options.log_level);
    let registration = registration(options.name, options.index);
    // Else it would have the name of the link that it may have been started by.
    process::set_name(c"uid-mapper");
    plugin.wait_for_turn()?;
    let mut waiting = false;
    loop {
        match UnixStream::connect(&options.socket) {
            Ok(socket) => {
                waiting = false;
                match session::run(socket, &registration, &mut plugin) {
                    Ok(()) => plugin.journal.say(Level::Info, "the runtime closed the connection; connecting again"),
                    Err(Error::Lost(why)) => plugin.journal.say(Level::Warning, format!("{why}; connecting again")),
                    Err(Error::Lasting(why)) => return Err(why),
                }
            }
            Err(e) if !waiting => {
                plugin.journal.say(Level::Info, format!("waiting for {}: {e}", options.socket.display()));
                waiting = true;
            }
            Err(_) => {}
        }
        sleep(PAUSE);
    }
}
