//! NRI's multiplexer: two channels on one socket, in chunks `channel u32 BE | length u32 BE | bytes`.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::ttrpc::{self, Decoder, Frame, be32, take};
use crate::sys::socket;

const HEADER: usize = 8;
/// The most bytes that we put in a chunk. NRI's Go side reads a channel through a 4096-byte buffer, and fails with
/// ENOMEM on a chunk that does not fit what is free of it.
const MAX_CHUNK: usize = 4096;
/// The least that can come between frames: the head of a chunk and that of a frame. The runtime writes a chunk's head by
/// itself; with this the kernel wakes us once for both. (A frame that stops within its first 17 bytes is not timed.)
const FIRST: usize = HEADER + ttrpc::HEADER;
/// How long the other side may pause in the middle of a frame, or take to let us write.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// The runtime calls us.
    Plugin = 1,
    /// We call the runtime.
    Runtime = 2,
}

pub struct Trunk {
    socket: UnixStream,
    buffer: Box<[u8]>,
    /// What of the buffer has been read and not used.
    unused: Range<usize>,
    /// The current chunk: its header so far, then how many of its bytes are still to come.
    header: Vec<u8>,
    left: u32,
    plugin: Decoder,
    runtime: Decoder,
    /// How the socket waits: for a new frame, or for the rest of one.
    between: Option<bool>,
    out: Vec<u8>,
}

impl Trunk {
    pub fn new(socket: UnixStream) -> Result<Trunk, String> {
        socket.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Trunk {
            socket,
            buffer: vec![0; 16 * 1024].into(),
            unused: 0..0,
            header: Vec::with_capacity(HEADER),
            left: 0,
            plugin: Decoder::default(),
            runtime: Decoder::default(),
            between: None,
            out: Vec::new(),
        })
    }

    /// Waits for the next frame of either channel; None when the stream has ended between frames.
    /// Between frames the wait has no bound, in the middle of one it has.
    pub fn next(&mut self) -> Result<Option<(Channel, Frame)>, String> {
        loop {
            while !self.unused.is_empty() {
                if let Some(frame) = self.step() {
                    return Ok(Some(frame));
                }
            }
            let between = self.header.is_empty() && self.plugin.is_empty() && self.runtime.is_empty();
            self.wait_as(between).map_err(failed)?;
            match self.socket.read(&mut self.buffer) {
                Ok(0) if between => return Ok(None),
                Ok(0) => return Err("the runtime closed the connection in the middle of a frame".into()),
                Ok(n) => self.unused = 0..n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset && between => return Ok(None),
                Err(e) => return Err(failed(e)),
            }
        }
    }

    pub fn send(&mut self, channel: Channel, frame: &[u8]) -> Result<(), String> {
        self.out.clear();
        chunks(channel, frame, &mut self.out);
        self.socket.write_all(&self.out).map_err(failed)
    }

    /// Waits a little for the other side to close, so that it reads our last answer first: NRI's Go side drops what is
    /// not read yet when it sees the end of the connection.
    pub fn linger(mut self) {
        const LONGEST: Duration = Duration::from_secs(1);
        let begun = Instant::now();
        let set = self.socket.set_read_timeout(Some(LONGEST)).and_then(|()| socket::set_low_water(&self.socket, 1));
        while set.is_ok() && begun.elapsed() < LONGEST {
            if !self.socket.read(&mut self.buffer).is_ok_and(|n| n > 0) {
                break;
            }
        }
    }

    /// Uses some of what has been read; a frame if that made one whole.
    fn step(&mut self) -> Option<(Channel, Frame)> {
        let mut input = &self.buffer[self.unused.clone()];
        let length = input.len();
        let mut frame = None;
        if self.header.len() < HEADER {
            self.header.extend_from_slice(take(&mut input, HEADER - self.header.len()));
            if self.header.len() == HEADER {
                self.left = be32(&self.header[4..]);
            }
        } else {
            let here = length.min(self.left as usize);
            let mut chunk = &input[..here];
            frame = match be32(&self.header) {
                1 => self.plugin.feed(&mut chunk).map(|frame| (Channel::Plugin, frame)),
                2 => self.runtime.feed(&mut chunk).map(|frame| (Channel::Runtime, frame)),
                // A channel of a later protocol: nothing that we could answer.
                _ => {
                    chunk = &[];
                    None
                }
            };
            input = &input[here - chunk.len()..];
            self.left -= (here - chunk.len()) as u32;
        }
        if self.header.len() == HEADER && self.left == 0 {
            self.header.clear();
        }
        self.unused.start += length - input.len();
        frame
    }

    /// Between frames the wait has no bound, and is for enough to begin with. In the middle of one it is bounded, and for
    /// whatever comes: the rest may be a single byte.
    fn wait_as(&mut self, between: bool) -> io::Result<()> {
        if self.between != Some(between) {
            self.socket.set_read_timeout((!between).then_some(PATIENCE))?;
            socket::set_low_water(&self.socket, if between { FIRST } else { 1 })?;
            self.between = Some(between);
        }
        Ok(())
    }
}

fn failed(e: io::Error) -> String {
    match e.kind() {
        // What SO_RCVTIMEO and SO_SNDTIMEO end with.
        io::ErrorKind::WouldBlock => {
            format!("the runtime paused for {} s in the middle of a frame", PATIENCE.as_secs())
        }
        _ => format!("the connection to the runtime failed: {e}"),
    }
}

/// A frame as it goes over the socket: chunks of at most 4096 bytes, with bytes of this frame only.
fn chunks(channel: Channel, frame: &[u8], out: &mut Vec<u8>) {
    for chunk in frame.chunks(MAX_CHUNK) {
        out.extend_from_slice(&(channel as u32).to_be_bytes());
        out.extend_from_slice(&(chunk.len() as u32).to_be_bytes());
        out.extend_from_slice(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nri::ttrpc::MAX_BODY;

    fn chunk(channel: u32, bytes: &[u8]) -> Vec<u8> {
        [&channel.to_be_bytes()[..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
    }

    fn frame(stream: u32, body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_be_bytes()[..], &stream.to_be_bytes(), &[1, 0], body].concat()
    }

    /// What a trunk makes of these bytes, sent in pieces, and how it ends.
    fn read(bytes: &[u8], piece: usize) -> (Vec<(Channel, Frame)>, Result<(), String>) {
        let (mut near, far) = UnixStream::pair().unwrap();
        let bytes = bytes.to_vec();
        #[allow(clippy::disallowed_methods)] // Nothing is forked here.
        let writer = std::thread::spawn(move || bytes.chunks(piece).all(|p| near.write_all(p).is_ok()));
        let mut trunk = Trunk::new(far).unwrap();
        let mut all = Vec::new();
        let end = loop {
            match trunk.next() {
                Ok(Some(frame)) => all.push(frame),
                Ok(None) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        assert!(writer.join().unwrap());
        (all, end)
    }

    #[test]
    fn chunks_and_frames_need_not_agree() {
        let (a, b) = (frame(1, b"first"), frame(3, b"second"));
        let both = [&a[..], &b[..]].concat();
        // Two frames in a chunk; one frame in three chunks, with the other channel and an unknown one in between.
        let bytes = [
            chunk(1, &both),
            chunk(1, &a[..4]),
            chunk(2, &b[..12]),
            chunk(7, b"who?"),
            chunk(1, &[]),
            chunk(1, &a[4..11]),
            chunk(2, &b[12..]),
            chunk(1, &a[11..]),
        ]
        .concat();
        for piece in [1, 2, 3, 7, 8, 9, 1000] {
            let (frames, end) = read(&bytes, piece);
            let streams: Vec<_> = frames.iter().map(|(c, f)| (*c, f.stream)).collect();
            use Channel::{Plugin, Runtime};
            assert_eq!(streams, [(Plugin, 1), (Plugin, 3), (Runtime, 3), (Plugin, 1)], "pieces of {piece}");
            assert_eq!(frames[3].1.body, Ok(b"first".to_vec()));
            assert_eq!(end, Ok(()));
        }
    }

    #[test]
    fn a_stream_cut_short_is_said_to_be() {
        let bytes = chunk(1, &frame(1, b"hello"));
        let truncated = "the runtime closed the connection in the middle of a frame";
        for length in 1..bytes.len() {
            let (frames, end) = read(&bytes[..length], 100);
            assert!(frames.is_empty());
            assert_eq!(end, Err(truncated.to_owned()), "after {length} bytes");
        }
        assert_eq!(read(&[], 1), (Vec::new(), Ok(())));
        // A chunk that claims 4 GiB.
        let huge = [&1u32.to_be_bytes()[..], &u32::MAX.to_be_bytes(), b"abc"].concat();
        assert_eq!(read(&huge, 100), (Vec::new(), Err(truncated.to_owned())));
    }

    #[test]
    fn an_oversized_frame_does_not_end_the_stream() {
        let bytes = [chunk(1, &frame(1, &vec![0; MAX_BODY + 1])), chunk(1, &frame(3, b"next"))].concat();
        let (frames, end) = read(&bytes, 60_000);
        assert_eq!(frames[0].1.body, Err(MAX_BODY as u32 + 1));
        assert_eq!(frames[1].1.body, Ok(b"next".to_vec()));
        assert_eq!((frames.len(), end), (2, Ok(())));
    }

    #[test]
    fn long_frames_go_out_in_chunks_that_fit_the_peers_buffer() {
        let mut sent = Vec::new();
        chunks(Channel::Plugin, &vec![5; 10_000], &mut sent);
        let mut sizes = Vec::new();
        let mut rest = &sent[..];
        while !rest.is_empty() {
            assert_eq!(be32(rest), 1);
            let n = be32(&rest[4..]) as usize;
            sizes.push(n);
            rest = &rest[HEADER + n..];
        }
        assert_eq!(sizes, [4096, 4096, 1808]);
    }
}
