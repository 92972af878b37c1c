//! chown of an id that the node lacks: done here, as the caller, with the id's place.
//!
//! The kernel decides whether the caller may: the one call is made with its file-system ids, groups and file
//! capabilities, from its root and its working directory, on the path that it gave. No path is joined or looked at.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use super::caller::{Ids, Node};
use super::calls::Op;
use super::thread::{Credentials, Proc, Thread};
use super::{Kind, NO_CHANGE};
use crate::sys::identity::{self, FILE_CAPABILITIES, Identity, Last, Start};
use crate::sys::seccomp::{Answer, Notification};
use crate::sys::{file, process};

/// What all workers are, and come back to.
pub struct Own {
    /// Who it is.
    pub identity: Identity,
    /// Its root.
    pub root: OwnedFd,
}

/// What is to be changed. It lives on one stack for one call: no allocation for the path.
#[allow(clippy::large_enum_variant)]
enum Target {
    /// What an open descriptor of the caller refers to, as fchown(2) takes it.
    Descriptor(OwnedFd),
    /// The same, as AT_EMPTY_PATH takes it.
    Place(OwnedFd),
    /// What a path leads to from the caller's working directory or another one (None: it is absolute).
    Path { path: Path, from: Option<OwnedFd>, last: Last },
}

/// A path of a caller, with its NUL.
struct Path {
    bytes: [u8; PATH_MAX],
    length: usize,
}

/// The most bytes of a path, its NUL among them.
const PATH_MAX: usize = 4096;

impl Path {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Errors of the kernel are the caller's; None: the kernel is to decide.
type Outcome = io::Result<Option<()>>;

/// Folds one call. `valid` says whether its caller still waits.
pub fn fold(
    n: &Notification,
    op: Op,
    ids: [u32; 2],
    (proc, node, own): (&Proc, &Node, &Own),
    thread: &Thread,
    valid: impl Fn() -> bool,
) -> Answer {
    let fold = |who: fn(&Thread) -> _| try_fold(n, op, ids, (proc, node, own), (thread, who), &valid);
    let outcome = match fold(Thread::quick_credentials) {
        // The caller's groups may be what is missing.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => fold(Thread::credentials),
        outcome => outcome,
    };
    match outcome {
        Ok(Some(())) => Answer::Done,
        Ok(None) => Answer::Continue,
        Err(e) => Answer::Errno(e.raw_os_error().unwrap_or(libc::EINVAL)),
    }
}

fn try_fold(
    n: &Notification,
    op: Op,
    [uid, gid]: [u32; 2],
    (proc, node, own): (&Proc, &Node, &Own),
    (thread, who): (&Thread, fn(&Thread) -> io::Result<Credentials>),
    valid: &impl Fn() -> bool,
) -> Outcome {
    let theirs = Ids::of(proc, node, thread)?;
    let known = |kind, id| id == NO_CHANGE || theirs.knows(node, kind, id);
    if known(Kind::User, uid) && known(Kind::Group, gid) {
        return Ok(None);
    }
    let place = |kind, id| if id == NO_CHANGE { id } else { theirs.place(node, kind, id).0 };
    let (uid, gid) = (place(Kind::User, uid), place(Kind::Group, gid));

    let mut identity = who(thread)?.identity;
    if !matches!(theirs, Ids::Node) {
        // Others are of no worth outside its namespace.
        identity.capabilities &= FILE_CAPABILITIES;
    }
    let target = target(n, op, thread)?;
    let root = thread.place(c"root")?;
    if !valid() {
        // Whatever was read may be another thread's; nobody waits for the answer.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    match target {
        Target::Descriptor(fd) => as_caller(own, &identity, None, || identity::fchown(fd.as_fd(), uid, gid))?,
        Target::Place(fd) => as_caller(own, &identity, None, || identity::chown(fd.as_fd(), uid, gid))?,
        Target::Path { path, from, last } => {
            let path =
                CStr::from_bytes_with_nul(path.bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))?;
            // To us such a path would mean a descriptor of our own.
            let named = Named::of(path, last).map(|named| (named, named.copy(thread)));
            if named.is_some() && !valid() {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            let change = |start| identity::chown(identity::find(start, path, last)?.as_fd(), uid, gid);
            let rooted = |work: &mut dyn FnMut() -> io::Result<()>| as_caller(own, &identity, Some(&root), work);
            let changed = match (named, &from) {
                (Some((named, copy)), _) => rooted(&mut || match &copy {
                    Ok(copy) if named.is_real() => identity::chown(copy.as_fd(), uid, gid),
                    Err(e) if named.is_real() => {
                        Err(io::Error::from_raw_os_error(e.raw_os_error().unwrap_or(libc::EIO)))
                    }
                    _ => change(Start::Here),
                }),
                (None, Some(from)) => rooted(&mut || change(Start::At(from.as_fd()))),
                // To change the root and back takes longer than all the rest.
                (None, None) => match as_caller(own, &identity, None, || change(Start::Root(root.as_fd()))) {
                    Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => rooted(&mut || change(Start::Here)),
                    changed => changed,
                },
            };
            match changed {
                // A magic link leads to what its reader has open, and the reader has to be the caller.
                Err(e) if e.raw_os_error() == Some(libc::ELOOP) => return Ok(None),
                // So does a path through /proc/self, which is nowhere or somebody else's here.
                Err(e) if is_missing(&e) && speaks_of_self(path) => return Ok(None),
                result => result?,
            }
        }
    }
    Ok(Some(()))
}

fn is_missing(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}

fn speaks_of_self(path: &CStr) -> bool {
    path.to_bytes().windows(4).any(|w| w == b"self" || w == b"/fd/")
}

fn target(n: &Notification, op: Op, thread: &Thread) -> io::Result<Target> {
    const KNOWN_FLAGS: i32 = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    let descriptor = || thread.descriptor(n.args[0] as i32);
    let here = || thread.place(c"cwd");
    match op {
        Op::Fchown => Ok(Target::Descriptor(descriptor()?)),
        Op::Fchownat => {
            let flags = n.args[4] as i32;
            if flags & !KNOWN_FLAGS != 0 {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            let is_here = n.args[0] as i32 == libc::AT_FDCWD;
            let path = path_at(n.tid, n.args[1])?;
            if path.bytes() == [0] {
                if flags & libc::AT_EMPTY_PATH == 0 {
                    return Err(io::Error::from_raw_os_error(libc::ENOENT));
                }
                return Ok(Target::Place(if is_here { here()? } else { descriptor()? }));
            }
            let from = start(&path, || if is_here { here() } else { descriptor() })?;
            let last = if flags & libc::AT_SYMLINK_NOFOLLOW != 0 { Last::Itself } else { Last::Follow };
            Ok(Target::Path { path, from, last })
        }
        _ => {
            let last = if op == Op::Lchown { Last::Itself } else { Last::Follow };
            let path = path_at(n.tid, n.args[0])?;
            let from = start(&path, here)?;
            Ok(Target::Path { path, from, last })
        }
    }
}

/// Where a path starts from. For an absolute one that does not matter, so it need not exist.
fn start(path: &Path, from: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    if path.bytes[0] == b'/' { Ok(None) } else { from().map(Some) }
}

/// The path at an address, with its NUL. Read once: what the caller's other threads make of it later does not matter.
fn path_at(tid: u32, address: u64) -> io::Result<Path> {
    const PAGE: usize = 4096;
    let mut path = Path { bytes: [0; PATH_MAX], length: 0 };
    while path.length < PATH_MAX {
        let begun = path.length;
        let at = address.checked_add(begun as u64).ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        // Not across a page's end: the next one may not be there. A short piece first: most paths are short.
        let to_page_end = PAGE - at as usize % PAGE;
        let piece = to_page_end.min(PATH_MAX - begun).min(if begun == 0 { 256 } else { PAGE });
        let read = process::read_memory(tid, at, &mut path.bytes[begun..begun + piece])?;
        path.length += read;
        if let Some(end) = path.bytes[begun..path.length].iter().position(|b| *b == 0) {
            path.length = begun + end + 1;
            return Ok(path);
        }
        if read == 0 {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
}

/// A descriptor of its own that a caller may mean by one of the usual paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named {
    number: i32,
    /// Of the thread; else of its process.
    thread: bool,
    /// The link on the way to /proc that has to be there, and where it has to lead.
    link: Option<(&'static CStr, &'static str)>,
}

impl Named {
    fn of(path: &CStr, last: Last) -> Option<Named> {
        let path = path.to_str().ok().filter(|_| last == Last::Follow)?;
        let named = |number, thread, link| Some(Named { number, thread, link });
        match path {
            "/dev/stdin" => return named(0, false, Some((c"/dev/stdin", "/proc/self/fd/0"))),
            "/dev/stdout" => return named(1, false, Some((c"/dev/stdout", "/proc/self/fd/1"))),
            "/dev/stderr" => return named(2, false, Some((c"/dev/stderr", "/proc/self/fd/2"))),
            _ => {}
        }
        let number = |prefix| {
            let text: &str = path.strip_prefix(prefix)?;
            // As proc names them: no sign, no leading zero.
            text.parse().ok().filter(|n: &i32| *n >= 0 && n.to_string() == text)
        };
        if let Some(n) = number("/dev/fd/") {
            return named(n, false, Some((c"/dev/fd", "/proc/self/fd")));
        }
        match (number("/proc/self/fd/"), number("/proc/thread-self/fd/")) {
            (Some(n), _) => named(n, false, None),
            (_, Some(n)) => named(n, true, None),
            _ => None,
        }
    }

    /// The caller's descriptor of this number; ENOENT if it has none, as there is no such name then.
    fn copy(&self, thread: &Thread) -> io::Result<OwnedFd> {
        let copy = if self.thread { Thread::descriptor } else { Thread::descriptor_of_process };
        copy(thread, self.number).map_err(|e| match e.raw_os_error() {
            Some(libc::EBADF) => io::Error::from_raw_os_error(libc::ENOENT),
            _ => e,
        })
    }

    /// Whether it is what it seems, to be asked from the caller's root: it may be a plain file there.
    fn is_real(&self) -> bool {
        let proc = identity::find(Start::Here, c"/proc", Last::Follow).and_then(|fd| file::file_system(&fd));
        proc.is_ok_and(|magic| magic == file::PROC_MAGIC)
            && self.link.is_none_or(|(link, to)| {
                let path = std::path::Path::new(std::ffi::OsStr::from_bytes(link.to_bytes()));
                std::fs::read_link(path).is_ok_and(|target| target == std::path::Path::new(to))
            })
    }
}

/// Does something with a caller's rights and, if given, from its root. Everything is taken back on every
/// path; a worker that cannot do that must not go on.
fn as_caller(
    own: &Own,
    who: &Identity,
    root: Option<&OwnedFd>,
    work: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let entered = root.map_or(Ok(()), |root| identity::enter(root.as_fd()));
    let result = entered.and_then(|()| identity::assume(who, &own.identity)).and_then(|()| work());
    let back = identity::resume(who, &own.identity);
    let back = back.and_then(|()| root.map_or(Ok(()), |_| identity::enter(own.root.as_fd())));
    if let Err(e) = back {
        eprintln!("uid-nri-plugin: a worker cannot take its own rights back: {e}");
        std::process::abort();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_paths_of_own_descriptors() {
        let of = |path: &CStr| Named::of(path, Last::Follow).map(|n| (n.number, n.thread));
        assert_eq!(of(c"/proc/self/fd/7"), Some((7, false)));
        assert_eq!(of(c"/proc/thread-self/fd/0"), Some((0, true)));
        assert_eq!(of(c"/dev/fd/12"), Some((12, false)));
        assert_eq!(of(c"/dev/stdout"), Some((1, false)));
        for path in [c"/proc/self/fd/", c"/proc/self/fd/+1", c"/proc/self/fd/-1", c"/proc/self/fd/01", c"/proc/1/fd/1"]
        {
            assert_eq!(of(path), None, "{path:?}");
        }
        assert_eq!(Named::of(c"/dev/fd/1", Last::Itself), None);
    }

    #[test]
    fn paths_are_read_whole_or_not() {
        let tid = std::process::id();
        let at = |address| path_at(tid, address).map(|p| p.bytes().to_vec()).map_err(|e| e.raw_os_error());
        let read = |bytes: &[u8]| at(bytes.as_ptr() as u64);
        assert_eq!(read(b"/etc/x\0rest"), Ok(b"/etc/x\0".to_vec()));
        assert_eq!(read(b"\0"), Ok(vec![0]));
        let mut long = vec![b'a'; 4095];
        long.push(0);
        assert_eq!(read(&long), Ok(long.clone()));
        assert_eq!(read(&[b'a'; 5000]), Err(Some(libc::ENAMETOOLONG)));
        assert_eq!(at(0), Err(Some(libc::EFAULT)));
        assert_eq!(at(u64::MAX - 2), Err(Some(libc::EFAULT)));
    }
}
