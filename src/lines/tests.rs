use std::io::pipe;
use std::os::unix::net::UnixDatagram as Socket;
use std::sync::mpsc;

use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::lines::output::Datagram;

/// Long enough for whatever does not fail.
const PATIENCE: Duration = Duration::from_secs(10);

fn start(output: impl Output, capacity: usize) -> (Lines, Arc<AtomicU64>) {
    let lost = Arc::<AtomicU64>::default();
    (Lines::start("test", Box::new(output), capacity, Duration::ZERO, Arc::clone(&lost)).expect("starts"), lost)
}

/// Takes what it is told to, and says what it took.
struct Scripted {
    answers: mpsc::Receiver<io::Result<usize>>,
    taken: mpsc::Sender<Vec<u8>>,
}

impl Output for Scripted {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let answer = self.answers.try_recv().unwrap_or(Ok(lines.len()))?.min(lines.len());
        self.taken.send(lines[..answer].to_vec()).expect("somebody looks");
        Ok(answer)
    }
}

#[test]
fn a_disk_that_was_full_goes_on_within_the_line_that_it_took_a_part_of() {
    let ((answer, answers), (taken, all)) = (mpsc::channel(), mpsc::channel());
    answer.send(Ok(3)).expect("waits");
    answer.send(Err(io::ErrorKind::StorageFull.into())).expect("waits");
    let (lines, lost) = start(Scripted { answers, taken }, 100);
    lines.push(b"first\n");
    assert_eq!(all.recv_timeout(PATIENCE).expect("some"), b"fir");
    assert_eq!(all.recv_timeout(PATIENCE).expect("the rest, a second later"), b"st\n");
    lines.push(b"second\n");
    assert_eq!(all.recv_timeout(PATIENCE).expect("as before"), b"second\n");
    assert_eq!(lost.load(Ordering::Relaxed), 0);
}

#[test]
fn what_finds_no_room_is_lost_whole_and_counted_and_nobody_waits() {
    let (read, write) = pipe().expect("a pipe");
    let (lines, lost) = start(Stream::new(write).expect("open"), 10_000);
    let line = |number: u32| format!("{number:0>999}\n");
    let pushed = 400;
    (0..pushed).for_each(|number| lines.push(line(number).as_bytes()));
    // A pipe takes 64 KiB, and what is being written 10 KB more.
    assert!(lost.load(Ordering::Relaxed) > 200, "{lost:?}");
    let reader = std::thread::spawn(move || io::read_to_string(read).expect("text"));
    lines.finish(PATIENCE);
    drop(lines);
    let read = reader.join().expect("ends");
    let numbers: Vec<u32> = read
        .lines()
        .map(|read| {
            let number = read.parse().expect("a whole line");
            assert_eq!(format!("{read}\n"), line(number));
            number
        })
        .collect();
    assert!(numbers.is_sorted() && read.ends_with('\n'));
    assert_eq!(numbers.len() as u64 + lost.load(Ordering::Relaxed), u64::from(pushed));
}

#[test]
fn the_end_waits_for_nothing_that_takes_nothing() {
    let (read, write) = pipe().expect("a pipe");
    let (lines, _) = start(Stream::new(write).expect("open"), 1 << 20);
    (0..1000).for_each(|_| lines.push(&[b"x".repeat(999).as_slice(), b"\n"].concat()));
    lines.finish(Duration::from_millis(10)); // returns, or the test hangs
    drop(lines);
    // The writer lets go of the pipe, and what is in there is whole.
    let read = io::read_to_string(read).expect("text");
    assert!(read.ends_with('\n') && read.lines().all(|line| line.len() == 999));
}

#[test]
fn files_are_written_in_large_pieces() {
    let file = memfd_create("lines", MemfdFlags::CLOEXEC).expect("a file");
    let mut stream = Stream::new(&file).expect("open");
    assert_eq!(stream.write(&b"line\n".repeat(10_000)).expect("written"), 50_000);
}

#[test]
fn a_datagram_is_a_line_and_its_reader_may_come_later_and_go() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log.sock");
    let mut output = Datagram::new(path.clone());
    assert!(output.write(b"nobody\n").is_err());
    let receive = |socket: &Socket| {
        let mut buffer = [0; 100];
        let length = socket.recv(&mut buffer).expect("a datagram");
        String::from_utf8(buffer[..length].to_vec()).expect("text")
    };
    let first = Socket::bind(&path).expect("binds");
    assert_eq!(output.write(b"one\ntwo\n").expect("sent"), 4);
    assert_eq!(receive(&first), "one");
    // It takes only so many that nobody reads, and then says so.
    let full = (0..100_000).find_map(|_| output.write(b"more\n").err()).expect("full");
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    drop(first);
    std::fs::remove_file(&path).expect("removes");
    let second = Socket::bind(&path).expect("binds");
    assert!(output.write(b"lost\n").is_err(), "the one who left is noticed");
    assert_eq!(output.write(b"three\n").expect("sent"), 6);
    assert_eq!(receive(&second), "three");
}

#[test]
fn a_file_that_cannot_be_opened_again_stays_and_is_tried_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let (old, moved) = (directory.path().join("log"), directory.path().join("log.1"));
    let (lines, lost) = start(File::open(old.clone()).expect("opens"), 1000);
    let until = |path: &std::path::Path, expected: &str| {
        let began = Instant::now();
        while std::fs::read_to_string(path).unwrap_or_default() != expected {
            assert!(began.elapsed() < PATIENCE, "{}: not {expected:?}", path.display());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    lines.push(b"one\n");
    until(&old, "one\n");
    std::fs::rename(&old, &moved).expect("moves");
    std::fs::create_dir(&old).expect("is in the way");
    lines.reopen();
    lines.push(b"two\n");
    until(&moved, "one\ntwo\n");
    std::fs::remove_dir(&old).expect("out of the way");
    let began = Instant::now();
    while !old.is_file() {
        assert!(began.elapsed() < PATIENCE, "it is not tried again by itself");
        std::thread::sleep(Duration::from_millis(5));
    }
    lines.push(b"three\n");
    until(&old, "three\n");
    assert_eq!(lost.load(Ordering::Relaxed), 0);
}
