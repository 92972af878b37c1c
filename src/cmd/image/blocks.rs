//! The blocks that a tar archive is made of, read in large pieces.

use std::io;

/// What tar counts in.
pub const BLOCK: usize = 512;
/// How much is read at once.
const CHUNK: usize = 128 * BLOCK;

/// Bytes in their order.
pub trait Source {
    /// Reads some; 0 is the end.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Passes over at most `count` bytes without reading them, and says over how many; 0 if only reading helps.
    fn pass(&mut self, count: u64) -> u64;
}

/// Reads a source block by block. Errors say at which byte.
pub struct Blocks<'a> {
    source: &'a mut dyn Source,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Where in the archive `start` is.
    at: u64,
}

impl<'a> Blocks<'a> {
    /// At the start of a source.
    pub fn new(source: &'a mut dyn Source) -> Blocks<'a> {
        Blocks { source, buffer: vec![0; CHUNK], start: 0, end: 0, at: 0 }
    }

    /// How many bytes are behind.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// A whole block; None at the end.
    pub fn next(&mut self) -> Result<Option<[u8; BLOCK]>, String> {
        while self.end - self.start < BLOCK {
            if self.fill()? == 0 {
                return if self.start == self.end { Ok(None) } else { Err(self.cut_off()) };
            }
        }
        let block = self.buffer[self.start..].first_chunk().copied();
        self.advance(BLOCK);
        Ok(block)
    }

    /// So many bytes, which the caller has a bound for.
    pub fn take(&mut self, count: u64) -> Result<Vec<u8>, String> {
        let (mut into, mut count) = (Vec::new(), count);
        while count > 0 {
            if self.start == self.end && self.fill()? == 0 {
                return Err(self.cut_off());
            }
            let some = count.min((self.end - self.start) as u64) as usize;
            into.extend_from_slice(&self.buffer[self.start..self.start + some]);
            self.advance(some);
            count -= some as u64;
        }
        Ok(into)
    }

    /// Passes over so many bytes, by seeking where the source can.
    pub fn skip(&mut self, mut count: u64) -> Result<(), String> {
        while count > 0 {
            if self.start == self.end {
                let passed = self.source.pass(count);
                self.at += passed;
                count -= passed;
                if count > 0 && self.fill()? == 0 {
                    return Err(self.cut_off());
                }
            }
            let some = count.min((self.end - self.start) as u64) as usize;
            self.advance(some);
            count -= some as u64;
        }
        Ok(())
    }

    /// The error of an archive that ends too early.
    pub fn cut_off(&self) -> String {
        format!("cut off at byte {}", self.at + (self.end - self.start) as u64)
    }

    fn advance(&mut self, count: usize) {
        self.start += count;
        self.at += count as u64;
    }

    /// Reads more, behind what is there.
    fn fill(&mut self) -> Result<usize, String> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let read = self.source.read(&mut self.buffer[self.end..]).map_err(|e| format!("byte {}: {e}", self.at))?;
        self.end += read;
        Ok(read)
    }
}
