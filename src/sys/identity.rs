//! Acting for somebody else: this thread's file-system ids, groups, capabilities, root and working directory.
//!
//! Raw calls, since libc's set*id change all threads of a process. Only file-system ids, not real or effective ones:
//! whoever we act for must not gain the right to signal or trace us.

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{cerr, cstr};

/// Capabilities that matter to what may be done with a file: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID.
pub const FILE_CAPABILITIES: u64 = 0b1_1111;

/// Who acts on files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// File-system user id.
    pub fsuid: u32,
    /// File-system group id.
    pub fsgid: u32,
    /// Additional groups.
    pub groups: Vec<u32>,
    /// Effective capabilities, by bit.
    pub capabilities: u64,
}

/// Gives this thread a root and working directory of its own, and makes both this directory. Until then it has those of
/// the thread that started it, wherever that one is just now.
pub fn own_directories(root: BorrowedFd) -> io::Result<()> {
    // SAFETY: an integer argument; only this thread is concerned.
    cerr(unsafe { libc::unshare(libc::CLONE_FS) }.into())?;
    enter(root)
}

/// Makes a directory this thread's root and working directory.
pub fn enter(root: BorrowedFd) -> io::Result<()> {
    // SAFETY: `root` is open, and "." is a constant string.
    unsafe {
        cerr(libc::fchdir(root.as_raw_fd()).into())?;
        cerr(libc::chroot(c".".as_ptr()).into()).map(drop)
    }
}

/// Whether all that we may is what somebody else of the same file-system uid may too, on files at least: then our own
/// capabilities do as well as the other's.
fn is_equal(who: &Identity, own: &Identity) -> bool {
    let (theirs, ours) = (who.capabilities, own.capabilities);
    who.fsuid == own.fsuid && ours & !theirs == 0 && theirs & FILE_CAPABILITIES & !ours == 0
}

/// Takes an identity in place of our own, capabilities last: they are what the rest takes.
pub fn assume(who: &Identity, own: &Identity) -> io::Result<()> {
    set_ids(own, who)?;
    if is_equal(who, own) {
        return Ok(());
    }
    // Set even if they are the same: a change of the file-system uid from 0 has changed them too (capabilities(7)).
    set_effective(who.capabilities & FILE_CAPABILITIES)
}

/// Takes our own identity back: capabilities first.
pub fn resume(who: &Identity, own: &Identity) -> io::Result<()> {
    if !is_equal(who, own) {
        set_effective(own.capabilities)?;
    }
    set_ids(who, own)?;
    // The way back to 0 changes them once more.
    if who.fsuid == own.fsuid { Ok(()) } else { set_effective(own.capabilities) }
}

/// Changes what differs.
fn set_ids(from: &Identity, to: &Identity) -> io::Result<()> {
    if from.groups != to.groups {
        let (count, first) = (to.groups.len(), to.groups.as_ptr());
        // SAFETY: `first` points to `count` ids, which are only read.
        cerr(unsafe { libc::syscall(libc::SYS_setgroups, count, first) })?;
    }
    let ids = [(libc::SYS_setfsgid, from.fsgid, to.fsgid), (libc::SYS_setfsuid, from.fsuid, to.fsuid)];
    for (call, _, id) in ids.into_iter().filter(|(_, from, to)| from != to) {
        // SAFETY: integers. These calls return the previous id and never fail, so the second one asks what came of it.
        let now = unsafe {
            libc::syscall(call, id);
            libc::syscall(call, u32::MAX)
        };
        if now as u32 != id {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
    }
    Ok(())
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// _LINUX_CAPABILITY_VERSION_3: two words of each set.
const VERSION: u32 = 0x2008_0522;

thread_local! {
    /// What this thread is permitted, which nothing here changes.
    static PERMITTED: OnceCell<[CapData; 2]> = const { OnceCell::new() };
}

fn capabilities() -> io::Result<[CapData; 2]> {
    if let Some(known) = PERMITTED.with(|p| p.get().copied()) {
        return Ok(known);
    }
    let data = capget(0)?;
    Ok(PERMITTED.with(|p| *p.get_or_init(|| data)))
}

/// The capabilities of a thread; 0: of this one.
fn capget(tid: u32) -> io::Result<[CapData; 2]> {
    let mut header = CapHeader { version: VERSION, pid: tid as libc::c_int };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 takes a header and two data structs, all ours.
    cerr(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok(data)
}

/// The effective capabilities of a thread, by bit. ESRCH if there is none of this number.
pub fn capabilities_of(tid: u32) -> io::Result<u64> {
    let [low, high] = capget(tid)?;
    Ok(u64::from(high.effective) << 32 | u64::from(low.effective))
}

/// Those of the wanted capabilities that we are permitted.
fn set_effective(wanted: u64) -> io::Result<()> {
    let mut header = CapHeader { version: VERSION, pid: 0 };
    let mut data = capabilities()?;
    for (word, data) in data.iter_mut().enumerate() {
        data.effective = (wanted >> (32 * word)) as u32 & data.permitted;
    }
    // SAFETY: as in capabilities; the data is only read.
    cerr(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

/// How a path is to be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// A link at its end leads on.
    Follow,
    /// A link at its end is meant itself.
    Itself,
}

/// Where a path starts.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// An absolute one at this thread's root, another one at its working directory.
    Here,
    /// The same, but a relative one at this directory.
    At(BorrowedFd<'a>),
    /// At this directory, which no absolute path, link or `..` leads out of. EAGAIN if that cannot be told because
    /// something was renamed meanwhile.
    Root(BorrowedFd<'a>),
}

/// Finds a file as this thread's identity may. ELOOP if the way leads through a magic link such as `/proc/PID/root`.
pub fn find(start: Start, path: &std::ffi::CStr, last: Last) -> io::Result<std::os::fd::OwnedFd> {
    #[repr(C)]
    struct OpenHow {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    const RESOLVE_NO_MAGICLINKS: u64 = 2;
    const RESOLVE_IN_ROOT: u64 = 16;
    let no_follow = if last == Last::Itself { libc::O_NOFOLLOW } else { 0 };
    let flags = (libc::O_PATH | libc::O_CLOEXEC | no_follow) as u64;
    let (from, resolve) = match start {
        Start::Here => (libc::AT_FDCWD, 0),
        Start::At(dir) => (dir.as_raw_fd(), 0),
        Start::Root(dir) => (dir.as_raw_fd(), RESOLVE_IN_ROOT),
    };
    let how = OpenHow { flags, mode: 0, resolve: resolve | RESOLVE_NO_MAGICLINKS };
    let (how, size) = (&raw const how, size_of::<OpenHow>());
    // SAFETY: `path` is NUL-terminated and `how` of the given size; both are only read during the call.
    super::owned(cerr(unsafe { libc::syscall(libc::SYS_openat2, from, path.as_ptr(), how, size) }))
}

/// Changes the owner of what a descriptor, of whatever kind, refers to. 2^32-1 is "no change".
pub fn chown(file: BorrowedFd, uid: u32, gid: u32) -> io::Result<()> {
    let empty = cstr("")?;
    // SAFETY: `file` is open, and `empty` an empty string that outlives the call.
    cerr(unsafe { libc::fchownat(file.as_raw_fd(), empty.as_ptr(), uid, gid, libc::AT_EMPTY_PATH) }.into()).map(drop)
}

/// The same as fchown(2) does it: EBADF for a descriptor that was opened with O_PATH. musl's own goes on from there.
pub fn fchown(file: BorrowedFd, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: `file` is open; integers otherwise.
    cerr(unsafe { libc::syscall(libc::SYS_fchown, file.as_raw_fd(), uid, gid) }).map(drop)
}

/// The real uid of this process.
pub fn real_uid() -> u32 {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::getuid() }
}
