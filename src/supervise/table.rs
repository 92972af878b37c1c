//! The calls that have been received and not yet answered, in memory that all processes of supervise share.
//!
//! The kernel puts a call into a slot, and whoever answers it empties the slot. So when a process dies, those that are
//! left find what it had in hand: an answer may come from anybody who has the listener.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::seccomp::{Notification, WORDS};
use crate::sys::shared;

/// Calls that can wait for their answers at once. There are no more threads than this on most machines.
pub const SLOTS: u32 = 65_536;
/// Processes that make calls again at once.
pub const MAX_WORKERS: usize = 512;
/// Processes that receive, at once: all but the last are stuck in a call that they make themselves.
pub const MAX_TURNS: usize = 32;
/// The longest array, in bytes, that is put back after its worker's death.
pub const MAX_UNDO: usize = 2048;

/// Words of a slot: the call, its state and owner, and five folded arguments.
const SLOT: usize = 16;
const STATE: usize = WORDS;
const FOLDED: usize = WORDS + 1;
/// Words of an undo record: thread, address, length, program; what was there, what is there.
const UNDO: usize = 4 + 2 * MAX_UNDO / 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nowhere: the slot is free, or the kernel may be about to put a call into it.
    Free,
    /// With the process that received it.
    Received,
    /// With a worker.
    Queued,
    /// The same, and the thread is inside the call with the folded arguments.
    Folded,
    /// The worker of such a call has died, and another one is to put back what was replaced.
    PutBack,
}

#[derive(Clone, Copy, Debug)]
pub enum Count {
    Chowns,
    SetIds,
    Passed,
    /// Calls refused.
    Failed,
}

#[derive(Clone, Copy, Debug)]
pub enum Word {
    /// Whose turn it is to receive.
    Turn,
    /// Calls that receivers have begun to make themselves; odd while one is at it.
    Own,
    /// 1: the keeper sleeps until its bell rings.
    KeeperSleeps,
    /// 1: all is about to end.
    Ending,
    /// So many slots have been used so far.
    Used,
}

const TURNS: usize = 5;
const COUNTS: usize = TURNS + MAX_TURNS;
const DONE: usize = COUNTS + 4;
const TAKEN: usize = DONE + MAX_WORKERS;
const NUMBERS: usize = TAKEN + MAX_WORKERS;
const UNDOS: usize = NUMBERS + MAX_WORKERS;
const SLOTS_AT: usize = UNDOS + MAX_WORKERS * UNDO;
const ALL: usize = SLOTS_AT + SLOTS as usize * SLOT;

/// The memory.
#[derive(Clone, Copy)]
pub struct Table(&'static [AtomicU64]);

/// Whose a call is: the receiver's, by its turn, and, once it is queued, its worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The receiver's turn.
    pub turn: u32,
    pub worker: u16,
}

impl Table {
    pub fn new() -> io::Result<Table> {
        shared::words(ALL).map(Table)
    }

    pub fn word(&self, which: Word) -> &'static AtomicU64 {
        &self.0[which as usize]
    }

    /// The turns of the receivers that live; 0: none.
    pub fn turns(&self) -> &'static [AtomicU64] {
        &self.0[TURNS..COUNTS]
    }

    /// Whether the receiver of this turn lives, or its workers do.
    pub fn lives(&self, turn: u32) -> bool {
        self.turns().iter().any(|word| word.load(Ordering::Relaxed) as u32 == turn)
    }

    pub fn count(&self, what: Count) {
        self.0[COUNTS + what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Chowns, set-ids, passed, failed.
    pub fn counts(&self) -> [u64; 4] {
        std::array::from_fn(|i| self.0[COUNTS + i].load(Ordering::Relaxed))
    }

    /// How many calls this worker has done with.
    pub fn done(&self, worker: usize) -> &'static AtomicU64 {
        &self.0[DONE + worker]
    }

    /// How many calls this worker has taken: those are no more in the kernel's queue.
    pub fn taken(&self, worker: usize) -> &'static AtomicU64 {
        &self.0[TAKEN + worker]
    }

    /// A number for a new worker of this turn's. None: all are taken.
    pub fn take_number(&self, turn: u32) -> Option<u16> {
        let number = (0..MAX_WORKERS).find(|number| {
            let word = &self.0[NUMBERS + number];
            let taken = word.load(Ordering::Acquire);
            let is_free = taken == 0 || !self.lives(taken as u32);
            is_free && word.compare_exchange(taken, turn.into(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })?;
        self.done(number).store(0, Ordering::Release);
        self.taken(number).store(0, Ordering::Release);
        self.undo(number).clear();
        Some(number as u16)
    }

    /// Its worker is gone, and its calls are somebody else's.
    pub fn give_back(&self, number: u16) {
        self.0[NUMBERS + usize::from(number)].store(0, Ordering::Release);
    }

    /// The slots that something may be in. Others are not looked at, so that they take no memory.
    pub fn used(&self) -> std::ops::Range<u32> {
        0..self.word(Word::Used).load(Ordering::Acquire) as u32
    }

    pub fn slot(&self, number: u32) -> Slot {
        let at = SLOTS_AT + number as usize * SLOT;
        Slot(&self.0[at..at + SLOT])
    }

    /// The record of what a worker has replaced in somebody's memory.
    pub fn undo(&self, worker: usize) -> Undo {
        let at = UNDOS + worker * UNDO;
        Undo(&self.0[at..at + UNDO])
    }
}

#[derive(Clone, Copy)]
pub struct Slot(&'static [AtomicU64]);

impl Slot {
    /// Where the kernel puts the call.
    pub fn words(&self) -> &'static [AtomicU64; WORDS] {
        self.0.first_chunk().unwrap_or_else(|| unreachable!("a slot is longer"))
    }

    /// The call. Its id is 0 where there is none.
    pub fn call(&self) -> Notification {
        Notification::load(self.words())
    }

    pub fn state(&self) -> (State, Owner) {
        let word = self.0[STATE].load(Ordering::Acquire);
        let state = match word as u8 {
            1 => State::Received,
            2 => State::Queued,
            3 => State::Folded,
            4 => State::PutBack,
            _ => State::Free,
        };
        (state, Owner { turn: (word >> 32) as u32, worker: (word >> 8) as u16 })
    }

    pub fn set(&self, state: State, owner: Owner) {
        let word = u64::from(owner.turn) << 32 | u64::from(owner.worker) << 8 | state as u64;
        self.0[STATE].store(word, Ordering::Release);
    }

    /// Empties it.
    pub fn free(&self) {
        self.0[0].store(0, Ordering::Relaxed);
        self.0[STATE].store(0, Ordering::Release);
    }

    /// The folded arguments (State::Folded); the sixth is never folded.
    pub fn folded(&self) -> [u64; 6] {
        let mut arguments = self.call().args;
        for (argument, word) in arguments.iter_mut().zip(&self.0[FOLDED..]) {
            *argument = word.load(Ordering::Relaxed);
        }
        arguments
    }

    /// What the call is about to be asked about with once more (State::Folded).
    pub fn set_folded(&self, arguments: [u64; 6]) {
        for (word, argument) in self.0[FOLDED..].iter().zip(arguments) {
            word.store(argument, Ordering::Relaxed);
        }
    }

    /// Whether a new call is this one with its folded arguments, asked about once more.
    pub fn is_asked_again(&self, n: &Notification) -> bool {
        let first = self.call();
        self.state().0 == State::Folded
            && (first.tid, first.nr, first.arch, first.ip) == (n.tid, n.nr, n.arch, n.ip)
            && self.folded() == n.args
    }
}

/// What was replaced in a thread's memory, for whoever comes after a worker that died before it could put it back.
#[derive(Clone, Copy)]
pub struct Undo(&'static [AtomicU64]);

impl Undo {
    /// Notes it, before it is done. Longer arrays than MAX_UNDO are not noted.
    pub fn note(&self, tid: u32, program: u64, address: u64, theirs: &[u8], ours: &[u8]) {
        if theirs.len() > MAX_UNDO {
            return;
        }
        let (first, second) = self.0[4..].split_at(MAX_UNDO / 8);
        for (words, bytes) in [(first, theirs), (second, ours)] {
            for (word, bytes) in words.iter().zip(bytes.chunks(8)) {
                let mut whole = [0; 8];
                whole[..bytes.len()].copy_from_slice(bytes);
                word.store(u64::from_le_bytes(whole), Ordering::Relaxed);
            }
        }
        self.0[3].store(program, Ordering::Relaxed);
        self.0[1].store(address, Ordering::Relaxed);
        self.0[2].store(theirs.len() as u64, Ordering::Relaxed);
        self.0[0].store(tid.into(), Ordering::Release);
    }

    /// The program that the thread ran (Thread::program).
    pub fn program(&self) -> u64 {
        self.0[3].load(Ordering::Relaxed)
    }

    pub fn clear(&self) {
        self.0[0].store(0, Ordering::Release);
    }

    /// Hands what is noted of this thread to another worker.
    pub fn give_to(&self, other: &Undo, tid: u32) {
        if let Some((noted, address, theirs, ours)) = self.noted()
            && noted == tid
        {
            other.note(tid, self.program(), address, &theirs, &ours);
            self.clear();
        }
    }

    /// Whether something of this thread's is noted.
    pub fn is_of(&self, tid: u32) -> bool {
        tid != 0 && self.0[0].load(Ordering::Acquire) as u32 == tid
    }

    /// What is noted: thread, address, what was there, and what is there if nobody else has changed it.
    pub fn noted(&self) -> Option<(u32, u64, Vec<u8>, Vec<u8>)> {
        let tid = self.0[0].load(Ordering::Acquire) as u32;
        let length = (self.0[2].load(Ordering::Relaxed) as usize).min(MAX_UNDO);
        let (first, second) = self.0[4..].split_at(MAX_UNDO / 8);
        let bytes = |words: &[AtomicU64]| {
            let all = words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
            all.take(length).collect::<Vec<u8>>()
        };
        (tid != 0).then(|| (tid, self.0[1].load(Ordering::Relaxed), bytes(first), bytes(second)))
    }
}
