//! An NRI plugin that lets pods use any user id in a rootless Kubernetes node with few subordinate ids.

mod args;
mod cmd;
mod journal;
mod map;
mod nri;
mod pod;
mod supervise;
mod sys;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use args::{Command, Options};
use journal::Level;
use map::printable;
use nri::plugin::{ConfigFiles, Plugin};
use nri::session::{self, Identity};

fn main() -> ExitCode {
    let words: Vec<OsString> = env::args_os().collect();
    // check has 1 and 2 for what it finds.
    let [failed, wrong] = if words.get(1).is_some_and(|word| word == "check") { [3, 3] } else { [1, 2] };
    match args::parse(words) {
        Ok(command) => match run(command) {
            Ok(status) => ExitCode::from(status),
            Err(message) => fail(&message, failed),
        },
        Err(message) => fail(&format!("{message}; see --help"), wrong),
    }
}

fn fail(message: &str, status: u8) -> ExitCode {
    // Names of files and users may hold anything. With stderr gone there is nobody left to tell.
    let _ = writeln!(io::stderr(), "uid-nri-plugin: {}", printable(message));
    ExitCode::from(status)
}

fn run(command: Command) -> Result<u8, String> {
    let print = |text: &str| match io::stdout().write_all(text.as_bytes()) {
        // A pipe into head or a pager, which has seen enough.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(format!("cannot write: {e}")),
        _ => Ok(()),
    };
    let done = match command {
        Command::Help(text) => print(text),
        Command::Tool(command) => {
            let (code, text) = cmd::run(command)?;
            return print(&text).map(|()| code);
        }
        Command::Version => print(concat!("uid-nri-plugin ", env!("CARGO_PKG_VERSION"), "\n")),
        Command::Become { command, beside, log_level } => return supervise::run(&command, &beside, log_level),
        Command::Plugin(options) => match env::var("NRI_PLUGIN_SOCKET") {
            Ok(fd) if !options.socket_given => launched(options, &fd),
            _ => external(options),
        },
    };
    done.map(|()| 0)
}

/// containerd has started us, and is at the other end of an inherited socket.
fn launched(options: Options, fd: &str) -> Result<(), String> {
    let fd = fd.parse().map_err(|_| format!("NRI_PLUGIN_SOCKET is {fd:?}, not a file descriptor"))?;
    let socket = sys::socket::inherited(fd).map_err(|e| format!("NRI_PLUGIN_SOCKET, descriptor {fd}: {e}"))?;
    let identity = Identity {
        name: env::var("NRI_PLUGIN_NAME").unwrap_or(options.name),
        index: env::var("NRI_PLUGIN_IDX").unwrap_or(options.index),
    };
    let config = options.config.map_or(ConfigFiles::None, ConfigFiles::This);
    let mut plugin = Plugin::new(config, options.log_level);
    let end = session::run(socket, &identity, &mut plugin).map_err(|e| e.to_string());
    match &end {
        Ok(()) => plugin.journal.say(Level::Info, "the runtime closed the connection"),
        // stderr leads nowhere here.
        Err(message) => plugin.journal.say(Level::Error, message),
    }
    end
}

/// Somebody else has started us: connect, and again when the runtime restarts.
fn external(options: Options) -> Result<(), String> {
    if let Some(path) = &options.config {
        // Said at once, not when there is a runtime.
        std::fs::File::open(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    }
    const PAUSE: Duration = Duration::from_millis(500);
    let identity = Identity { name: options.name, index: options.index };
    let names = [format!("{}-{}", identity.index, identity.name), identity.name.clone()];
    let drop_ins = names.map(|name| Path::new("/etc/nri/conf.d").join(format!("{name}.conf")));
    let config = options.config.map_or(ConfigFiles::First(drop_ins.into()), ConfigFiles::This);
    let mut plugin = Plugin::new(config, options.log_level);
    // Else it would have the name of the link that it may have been started by.
    sys::process::set_name(c"uid-mapper");
    plugin.wait_for_turn()?;
    let mut waiting = false;
    loop {
        let end = match UnixStream::connect(&options.socket) {
            Ok(socket) => {
                waiting = false;
                session::run(socket, &identity, &mut plugin)
            }
            Err(e) => {
                if !waiting {
                    plugin.journal.say(Level::Info, format!("waiting for {}: {e}", options.socket.display()));
                    waiting = true;
                }
                sleep(PAUSE);
                continue;
            }
        };
        match end {
            Ok(()) => plugin.journal.say(Level::Info, "the runtime closed the connection; connecting again"),
            Err(e @ (session::Error::Trunk(_) | session::Error::TooSoon)) => {
                plugin.journal.say(Level::Warning, format!("{e}; connecting again"))
            }
            Err(e) => return Err(e.to_string()),
        }
        sleep(PAUSE);
    }
}
