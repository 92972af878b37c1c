//! Other programs: one that bytes are passed through, and what one prints.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::fork::{exit_code, kill, wait_child};
use super::poll::{self, Watch};
use super::{cerr, cstr};

/// How much of the input is held here.
const CHUNK: usize = 1 << 16;

unsafe extern "C" {
    /// The environment, as environ(7) has it.
    static environ: *const *mut libc::c_char;
}

/// A running program. It is killed, and reaped, when this is dropped.
pub struct Program {
    name: &'static CStr,
    pid: Option<u32>,
    input: Option<PipeWriter>,
    output: PipeReader,
    held: Vec<u8>,
    given: usize,
}

impl Program {
    /// Starts a program, found by PATH, with one argument. Nothing is known of what it writes to stderr.
    /// An error is that of starting it: ENOENT if it is not installed.
    pub fn start(name: &'static CStr, argument: &CStr) -> io::Result<Program> {
        let (stdin, input) = io::pipe()?;
        let (output, stdout) = io::pipe()?;
        // So that we never wait for it to take, while it waits for us to do so.
        // SAFETY: integers; the descriptor is open.
        cerr(unsafe { libc::fcntl(input.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }.into())?;
        for pipe in [input.as_raw_fd(), output.as_raw_fd()] {
            // Fewer turns; where a user's share of pipe memory is used up, it stays small.
            // SAFETY: integers; the descriptor is open.
            let _ = unsafe { libc::fcntl(pipe, libc::F_SETPIPE_SZ, 1 << 20) };
        }
        let null = File::options().write(true).open("/dev/null")?;
        let pid = spawn(&[name, argument], stdin.as_fd(), stdout.as_fd(), null.as_fd())?;
        Ok(Program { name, pid: Some(pid), input: Some(input), output, held: Vec::with_capacity(CHUNK), given: 0 })
    }

    /// Reads some of its output, and gives it input meanwhile: `more` reads some, 0 is its end. Returns 0 when the
    /// program has ended, and well; if not well, an error tells how.
    pub fn read(&mut self, into: &mut [u8], more: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            let input = self.input.as_ref().map_or(Watch::Nothing, |input| Watch::Output(input.as_fd()));
            let [takes, gives] = poll::wait([input, Watch::Input(self.output.as_fd())], None);
            if takes.any() {
                self.give(more)?;
            }
            if gives.any() {
                return match self.output.read(into)? {
                    0 => self.finish().map(|()| 0),
                    read => Ok(read),
                };
            }
        }
    }

    fn give(&mut self, more: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
        if self.given == self.held.len() {
            self.held.resize(CHUNK, 0);
            let read = more(&mut self.held)?;
            self.held.truncate(read);
            self.given = 0;
        }
        let rest = &self.held[self.given..];
        match self.input.as_mut().map(|input| input.write(rest)) {
            Some(Ok(count)) if count > 0 => self.given += count,
            Some(Err(e)) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // All is given, or it takes no more (EPIPE): its status will tell why.
            _ => self.input = None,
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.input = None;
        match self.wait()? {
            0 => Ok(()),
            status => {
                let code = exit_code(status);
                Err(io::Error::other(format!("{} ended with status {code}", self.name.to_string_lossy())))
            }
        }
    }

    fn wait(&mut self) -> io::Result<i32> {
        self.pid.take().map_or(Ok(0), wait_child)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            // It was not reaped, so the pid is still its own.
            let _ = kill(pid, libc::SIGKILL).and_then(|()| self.wait());
        }
    }
}

/// The most that is read of what a program prints.
const MAX_OUTPUT: usize = 64 * 1024;

/// What a program prints to stdout. An exit status other than 0 is an error too.
pub fn output(program: &str, arguments: &[&str]) -> io::Result<String> {
    match run(program, arguments, false)? {
        (text, 0) => Ok(text),
        (_, code) => Err(io::Error::other(format!("it ended with status {code}"))),
    }
}

/// What a program, found by PATH, prints to stdout, and to stderr if `all` (else that is /dev/null), as far as 64 KiB, and
/// its exit code. It is killed when it has not ended after 2 s, or 10 s if `all` (ETIMEDOUT). Its stdin is /dev/null.
pub fn run(program: &str, arguments: &[&str], all: bool) -> io::Result<(String, u8)> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let (mut from, to) = io::pipe()?;
    let words = [&[program], arguments].concat().into_iter().map(cstr).collect::<io::Result<Vec<_>>>()?;
    let words: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
    let child = spawn(&words, null.as_fd(), to.as_fd(), if all { to.as_fd() } else { null.as_fd() })?;
    drop(to);
    let end = Instant::now() + Duration::from_secs(if all { 10 } else { 2 });
    let (mut text, mut block, mut timely) = (Vec::new(), [0; 4096], true);
    while text.len() < MAX_OUTPUT {
        let [ready] = poll::wait([Watch::Input(from.as_fd())], Some(end.saturating_duration_since(Instant::now())));
        timely = ready.any();
        match if timely { from.read(&mut block)? } else { 0 } {
            0 => break,
            n => text.extend_from_slice(&block[..n]),
        }
    }
    // One that has closed its stdout has said what it had to; it is not waited for without bound.
    if !timely || !ended_by(child, end) {
        kill(child, libc::SIGKILL)?;
    }
    let status = wait_child(child)?;
    if !timely {
        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    Ok((String::from_utf8_lossy(&text).into_owned(), exit_code(status)))
}

/// Whether a child has ended by this time; it is left to be reaped.
fn ended_by(child: u32, end: Instant) -> bool {
    loop {
        // SAFETY: siginfo_t is a plain struct of integers, for which all zeros is a value, and is ours.
        let ended = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            libc::waitid(libc::P_PID, child, &mut info, flags) != 0 || info.si_pid() != 0
        };
        if ended || Instant::now() >= end {
            return ended;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Starts a program with these as 0, 1 and 2, and with SIGPIPE as programs expect it (std ignores it).
/// std::process::Command would do, and makes the file 32 KiB larger.
fn spawn(command: &[&CStr], stdin: BorrowedFd, stdout: BorrowedFd, stderr: BorrowedFd) -> io::Result<u32> {
    let words = command.iter().map(|word| word.as_ptr().cast_mut());
    let arguments: Vec<*mut libc::c_char> = words.chain([std::ptr::null_mut()]).collect();
    let done = |error: libc::c_int| match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    };
    let mut pid = 0;
    // SAFETY: SIGCHLD is a valid signal; inherited as ignored, a child would vanish without a status. `actions` and
    // `attributes` are made by their init functions before use and destroyed after; the descriptors are open, the
    // strings are NUL-terminated and `arguments` ends with a null; all live during the calls, which only read them.
    // posix_spawn shares no lock or memory of other threads with what it starts.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
        let mut attributes: libc::posix_spawnattr_t = std::mem::zeroed();
        let mut defaults: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut defaults);
        libc::sigaddset(&mut defaults, libc::SIGPIPE);
        done(libc::posix_spawn_file_actions_init(&mut actions))?;
        done(libc::posix_spawnattr_init(&mut attributes))?;
        let started = done(libc::posix_spawn_file_actions_adddup2(&mut actions, stdin.as_raw_fd(), 0))
            .and_then(|()| done(libc::posix_spawn_file_actions_adddup2(&mut actions, stdout.as_raw_fd(), 1)))
            .and_then(|()| done(libc::posix_spawn_file_actions_adddup2(&mut actions, stderr.as_raw_fd(), 2)))
            .and_then(|()| done(libc::posix_spawnattr_setsigdefault(&mut attributes, &defaults)))
            .and_then(|()| done(libc::posix_spawnattr_setflags(&mut attributes, libc::POSIX_SPAWN_SETSIGDEF as _)))
            .and_then(|()| {
                let file = command[0].as_ptr();
                done(libc::posix_spawnp(&mut pid, file, &actions, &attributes, arguments.as_ptr(), environ))
            });
        libc::posix_spawn_file_actions_destroy(&mut actions);
        libc::posix_spawnattr_destroy(&mut attributes);
        started.map(|()| pid as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program makes of these bytes, or how it failed.
    fn through(name: &'static CStr, argument: &CStr, mut bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut program = Program::start(name, argument).map_err(|e| e.to_string())?;
        let (mut all, mut some) = (Vec::new(), [0; 1000]);
        loop {
            match program.read(&mut some, &mut |into| bytes.read(into)).map_err(|e| e.to_string())? {
                0 => return Ok(all),
                read => all.extend_from_slice(&some[..read]),
            }
        }
    }

    #[test]
    fn bytes_go_through_whole() {
        // More than both pipes and all buffers hold: neither side waits for the other.
        let bytes: Vec<u8> = (0..5_000_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        assert_eq!(through(c"cat", c"-", &bytes).unwrap(), bytes);
        assert_eq!(through(c"cat", c"-", b"").unwrap(), b"");
        // As many as it wants, and the rest is not given.
        assert_eq!(through(c"head", c"-n1", &[b"x\n".as_slice(), &bytes].concat()).unwrap(), b"x\n");
    }

    #[test]
    fn failures_are_told() {
        assert_eq!(through(c"false", c"", &[0; 3_000_000]), Err("false ended with status 1".into()));
        let missing = Program::start(c"no-such-program-here", c"").map(drop).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        let mut program = Program::start(c"cat", c"-").unwrap();
        let fails = program.read(&mut [0; 10], &mut |_| Err(io::Error::from_raw_os_error(libc::EIO)));
        assert_eq!(fails.unwrap_err().raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn nothing_is_left_behind() {
        let program = Program::start(c"sleep", c"1000").unwrap();
        let pid = program.pid.unwrap();
        drop(program);
        let gone = kill(pid, 0).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn sigpipe_ends_it() {
        // With SIGPIPE ignored, `yes` would write an error and end with status 1; killed, it has none to tell.
        let mut program = Program::start(c"yes", c"y").unwrap();
        assert_eq!(program.read(&mut [0; 4], &mut |_| Ok(0)).unwrap(), 4);
        let (other, _) = io::pipe().unwrap();
        program.output = other;
        assert_eq!(libc::WTERMSIG(program.wait().unwrap()), libc::SIGPIPE);
    }

    #[test]
    fn programs_are_run_and_bounded() {
        let sh = |script| output("sh", &["-c", script]);
        assert_eq!(sh("echo one two; cat; echo not seen >&2").unwrap(), "one two\n");
        assert_eq!(sh("echo x; exit 3").unwrap_err().to_string(), "it ended with status 3");
        assert_eq!(run("sh", &["-c", "echo x; echo y >&2; exit 3"], true).unwrap(), ("x\ny\n".into(), 3));
        assert_eq!(output("/nonexistent", &[]).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        // Endless output is cut off: the program dies of SIGPIPE or is killed.
        assert!(sh("while :; do echo endless; done").is_err());
        let begun = Instant::now();
        for script in ["sleep 60", "exec >&-; sleep 60", "echo x; exec sleep 60"] {
            assert!(sh(script).is_err(), "{script:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_eq!(output("a\0b", &[]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
