//! Memory that a process shares with those that it forks.

use std::io;
use std::sync::atomic::AtomicU64;

/// So many words, all 0, for this process and all that come of it. They are there until the last of these ends; pages
/// that nobody touches take no memory.
pub fn words(count: usize) -> io::Result<&'static [AtomicU64]> {
    let size = count * size_of::<AtomicU64>();
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    // SAFETY: a new mapping where the kernel wants it.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is page-aligned, zeroed, `size` bytes long and never unmapped; others change it only as atomics,
    // and the kernel (seccomp::receive) while nobody reads those words.
    Ok(unsafe { std::slice::from_raw_parts(at.cast(), count) })
}
