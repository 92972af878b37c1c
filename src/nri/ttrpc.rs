//! ttrpc frames: `length u32 BE | stream u32 BE | type u8 | flags u8 | body` (containerd/ttrpc, PROTOCOL.md).

use protobuf::Message;

pub use super::proto::ttrpc::Status;
use super::proto::ttrpc::{Request, Response};

/// Bytes before the body.
pub const HEADER: usize = 10;
/// The longest body, in bytes.
pub const MAX_BODY: usize = 4 << 20;
/// Frame types: a call, and its answer.
pub const REQUEST: u8 = 1;
pub const RESPONSE: u8 = 2;

/// The status codes of google.rpc.Code that we use.
#[derive(Clone, Copy)]
pub enum Code {
    InvalidArgument = 3,
    ResourceExhausted = 8,
    /// Cannot be done in this state; here: a container that may not be created.
    FailedPrecondition = 9,
    Unimplemented = 12,
    Internal = 13,
}

/// An error answer, with a text that the user sees.
pub fn failure(code: Code, message: impl Into<String>) -> Status {
    Status { code: code as i32, message: message.into(), ..Default::default() }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whose answer it is or asks for.
    pub stream: u32,
    /// REQUEST, RESPONSE or something that we do not know.
    pub kind: u8,
    /// The protobuf inside; Err with its length if it was over MAX_BODY and has been discarded.
    pub body: Result<Vec<u8>, u32>,
}

/// Puts frames together from pieces of any size. Memory grows with the bytes that came, not with the length claimed.
#[derive(Debug, Default)]
pub struct Decoder {
    header: Vec<u8>,
    body: Vec<u8>,
    /// Body bytes still to come; meaningful once the header is whole.
    left: usize,
}

impl Decoder {
    /// Takes bytes off `input` until a frame is whole or the input is used up.
    pub fn feed(&mut self, input: &mut &[u8]) -> Option<Frame> {
        if self.header.len() < HEADER {
            let more = take(input, HEADER - self.header.len());
            self.header.extend_from_slice(more);
            if self.header.len() < HEADER {
                return None;
            }
            self.left = self.length() as usize;
        }
        let oversized = self.length() as usize > MAX_BODY;
        let more = take(input, self.left);
        self.left -= more.len();
        if !oversized {
            if self.body.capacity() - self.body.len() < more.len() {
                // Grow by doubling, but never beyond what this frame can need.
                let wanted = (self.body.len() + more.len()).max(self.body.len() * 2);
                let wanted = wanted.min(self.body.len() + more.len() + self.left);
                self.body.reserve_exact(wanted - self.body.len());
            }
            self.body.extend_from_slice(more);
        }
        if self.left > 0 {
            return None;
        }
        let body = if oversized { Err(self.length()) } else { Ok(std::mem::take(&mut self.body)) };
        let frame = Frame { stream: be32(&self.header[4..]), kind: self.header[8], body };
        self.header.clear();
        Some(frame)
    }

    /// Whether no frame has begun.
    pub fn is_empty(&self) -> bool {
        self.header.is_empty()
    }

    fn length(&self) -> u32 {
        be32(&self.header)
    }
}

/// Splits off at most `most` bytes.
pub fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (head, tail) = input.split_at(most.min(input.len()));
    *input = tail;
    head
}

/// The big-endian number at the start of a slice of at least 4 bytes.
pub fn be32(bytes: &[u8]) -> u32 {
    bytes[..4].iter().fold(0, |n, b| n << 8 | u32::from(*b))
}

fn unwritten(e: protobuf::Error) -> String {
    format!("cannot encode a message: {e}")
}

fn frame(stream: u32, kind: u8, body: &impl Message) -> Result<Vec<u8>, String> {
    let mut out = vec![0; HEADER];
    body.write_to_vec(&mut out).map_err(unwritten)?;
    let length = (out.len() - HEADER) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out[4..8].copy_from_slice(&stream.to_be_bytes());
    out[8] = kind;
    Ok(out)
}

pub fn request(stream: u32, service: &str, method: &str, payload: &impl Message) -> Result<Vec<u8>, String> {
    let request = Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload: payload.write_to_bytes().map_err(unwritten)?,
        ..Default::default()
    };
    frame(stream, REQUEST, &request)
}

pub fn response(stream: u32, answer: Result<Vec<u8>, Status>) -> Result<Vec<u8>, String> {
    let mut response = Response::new();
    match answer {
        Ok(payload) => response.payload = payload,
        Err(status) => response.status = Some(status).into(),
    }
    frame(stream, RESPONSE, &response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(length: u32, stream: u32, kind: u8, body: &[u8]) -> Vec<u8> {
        [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], body].concat()
    }

    fn frames(decoder: &mut Decoder, mut input: &[u8]) -> Vec<Frame> {
        let mut all = Vec::new();
        while !input.is_empty() {
            all.extend(decoder.feed(&mut input));
        }
        all
    }

    #[test]
    fn frames_come_out_whole_however_they_are_cut() {
        let bytes = [raw(3, 1, 1, b"abc"), raw(0, 3, 1, b""), raw(5, 5, 2, b"hello")].concat();
        let whole = frames(&mut Decoder::default(), &bytes);
        assert_eq!(whole.len(), 3);
        assert_eq!(whole[0], Frame { stream: 1, kind: 1, body: Ok(b"abc".to_vec()) });
        assert_eq!(whole[1], Frame { stream: 3, kind: 1, body: Ok(Vec::new()) });
        for size in 1..bytes.len() {
            let mut decoder = Decoder::default();
            let cut: Vec<Frame> = bytes.chunks(size).flat_map(|piece| frames(&mut decoder, piece)).collect();
            assert_eq!(cut, whole, "pieces of {size}");
            assert!(decoder.is_empty());
        }
    }

    #[test]
    fn oversized_frames_are_discarded_not_kept() {
        let mut decoder = Decoder::default();
        let length = MAX_BODY as u32 + 1;
        assert!(frames(&mut decoder, &raw(length, 7, 1, &[])).is_empty());
        let zeros = vec![0; 1 << 16];
        for _ in 0..64 {
            assert!(frames(&mut decoder, &zeros).is_empty());
        }
        assert_eq!(decoder.body.capacity(), 0);
        assert_eq!(frames(&mut decoder, &[0]), [Frame { stream: 7, kind: 1, body: Err(length) }]);
        assert_eq!(frames(&mut decoder, &raw(1, 9, 1, b"x")).len(), 1);
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let mut decoder = Decoder::default();
        frames(&mut decoder, &raw(MAX_BODY as u32, 1, 1, b"few"));
        assert!(decoder.body.capacity() < 100);
        let chunk = vec![0; 100_000];
        for _ in 0..41 {
            frames(&mut decoder, &chunk);
            assert!(decoder.body.capacity() <= MAX_BODY);
        }
        // 4 GiB - 1.
        let mut decoder = Decoder::default();
        frames(&mut decoder, &raw(u32::MAX, 1, 1, b"few"));
        assert_eq!((decoder.body.capacity(), decoder.left), (0, u32::MAX as usize - 3));
    }

    #[test]
    fn nested_groups_do_not_exhaust_the_stack() {
        // Field 1, "start group", without end: what protobuf before 3.7.2 recursed into (RUSTSEC-2024-0437).
        assert!(Request::parse_from_bytes(&vec![0x0b; MAX_BODY]).is_err());
        assert!(Response::parse_from_bytes(&vec![0x33; MAX_BODY]).is_err());
    }

    #[test]
    fn answers_parse_back() {
        let bytes = response(9, Err(failure(Code::Unimplemented, "no"))).unwrap();
        let frame = frames(&mut Decoder::default(), &bytes).remove(0);
        let response = Response::parse_from_bytes(&frame.body.unwrap()).unwrap();
        assert_eq!((frame.stream, frame.kind), (9, RESPONSE));
        assert_eq!((response.status.code, response.status.message.as_str()), (12, "no"));
        let bytes = response_of(Ok(b"payload".to_vec()));
        assert_eq!(Response::parse_from_bytes(&bytes[HEADER..]).unwrap().payload, b"payload");
    }

    fn response_of(answer: Result<Vec<u8>, Status>) -> Vec<u8> {
        response(1, answer).unwrap()
    }
}
