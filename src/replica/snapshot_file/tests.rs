//! What one run saves and the next one has; and what is no such file.

use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::replica::ReplicaStatus;
use crate::replica::sync::{Finding, Input, Read, Table};
use crate::store::{
    Change, Changes, CommitId, Epoch, Head, LogEntry, Probe, Revision, SidecarId, SnapshotItem, Stamp, Subject,
};
use crate::token::{Digest, Grant, Owner, PermissionSet, Role, TokenId, UserId};

const STORE: &str = "redis://example";

const EPOCH: Epoch = Epoch(7);

const BOUND: Duration = Duration::from_secs(60);

fn digest(number: u64) -> Digest {
    Digest::of(&number.to_le_bytes())
}

fn grant(number: u64) -> Grant {
    let expires_at = number.is_multiple_of(2).then_some(4_000_000_000);
    let (token, owner) = (TokenId::from_u64(number), UserId::from_u64(number % 3));
    Grant { token, owner, permissions: PermissionSet::TELEGRAF_AGENT, expires_at }
}

fn put(number: u64) -> Change {
    Change::PutGrant(digest(number), grant(number))
}

fn remove(number: u64) -> Change {
    Change::RemoveGrant(digest(number))
}

fn user(id: u64) -> Change {
    let owner = Owner { name: format!("user {id}"), role: Role::Manager, enabled: id != 2 };
    Change::PutOwner(UserId::from_u64(id), owner)
}

fn here() -> Moment {
    Moment { boot: [1; 16], at: Instant::since_boot(Duration::from_secs(1_000_000)) }
}

fn later(seconds: u64) -> Moment {
    Moment { at: here().at + Duration::from_secs(seconds), ..here() }
}

/// A replica with a store's log behind it.
struct Run {
    replica: Arc<Replica>,
    log: Vec<LogEntry>,
    now: Instant,
}

impl Run {
    fn new() -> Self {
        Self { replica: Arc::new(Replica::new()), log: Vec::new(), now: here().at }
    }

    /// Three users, the last of them disabled, and tokens 0 to 8, of which 0 was revoked.
    fn usual() -> Self {
        let mut run = Self::new();
        run.commit((0..3).map(user).chain((0..9).map(put)).collect());
        run.commit(vec![remove(0)]);
        run.replica.confirm(run.now);
        run
    }

    fn commit(&mut self, changes: Vec<Change>) {
        let revision = Revision(self.log.len() as u64 + 1);
        let id = CommitId(revision.0.into());
        let head = self.log.last().map_or(Head::START, |last| last.head).then(id);
        let mut entry = LogEntry { id, revision, head, checksum: 0, changes };
        entry.checksum = self.replica.apply(&entry, self.now);
        self.replica.set_position(Some(entry.committed(EPOCH).position));
        self.log.push(entry);
    }

    fn file(&self, folder: &TempDir) -> Arc<SnapshotFile> {
        self.file_of(SidecarId(1), folder.path().join("replica.snapshot"))
    }

    fn file_of(&self, sidecar: SidecarId, path: PathBuf) -> Arc<SnapshotFile> {
        SnapshotFile::new(path, STORE.to_owned(), &mut SidecarIdentity::of(sidecar), BOUND, Arc::clone(&self.replica))
    }

    fn saved(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        self.file(&folder).save_now(Some(here()));
        folder
    }
}

/// A new replica, loaded from the file in this folder at a moment.
fn load(folder: &TempDir, at: Moment) -> (Arc<Replica>, Synchroniser) {
    let run = Run::new();
    let machine = run.file(folder).load_now(Some(at));
    (run.replica, machine)
}

fn staleness(replica: &Replica, at: Moment) -> Option<u64> {
    replica.staleness(at.at).map(|staleness| staleness.as_secs())
}

/// What requests see of the tokens below a number.
fn seen(replica: &Replica, tokens: u64) -> Vec<Option<String>> {
    (0..tokens).map(|number| replica.lookup(&digest(number)).map(|holder| format!("{holder:?}"))).collect()
}

#[tokio::test]
async fn no_start_serves_what_others_were_told_is_taken_away() {
    let mut run = Run::usual();
    let folder = tempfile::tempdir().expect("a folder");
    let file = run.file(&folder);
    let served = || staleness(&load(&folder, later(1)).0, later(1)).is_some();
    file.save_now(Some(here()));
    run.commit(vec![put(20)]);
    file.vouch().await.expect("vouches");
    assert!(served(), "nothing was taken away");
    run.commit(vec![remove(1)]);
    assert!(served(), "nobody was told");
    file.vouch().await.expect("vouches");
    let (replica, machine) = load(&folder, later(1));
    assert_eq!((staleness(&replica, later(1)), replica.status().grants), (None, 8));
    assert_ne!(machine, Synchroniser::new(), "it goes on from there");
    file.save_now(Some(here()));
    assert!(served());
    // While it was written.
    file.current().vouched += 1;
    file.save_now(Some(here()));
    assert!(!served());
    run.commit(vec![remove(2)]);
    file.save_now(Some(here()));
    assert!(served());

    // One that another run wrote.
    let mut next = Run::new();
    let file = next.file(&folder);
    file.load_now(Some(later(1)));
    file.vouch().await.expect("vouches");
    assert!(served());
    next.commit(vec![remove(3)]);
    file.vouch().await.expect("vouches");
    assert!(!folder.path().join("replica.snapshot").exists());
}

#[test]
fn the_next_run_has_what_the_one_before_had() {
    let mut run = Run::usual();
    // The store holds 1 although it was seen removed.
    run.replica.recall(&[digest(1)]);
    run.commit(vec![user(0)]);
    let folder = run.saved();
    let (replica, machine) = load(&folder, later(20));
    assert_eq!(seen(&replica, 10), seen(&run.replica, 10));
    assert!(replica.lookup(&digest(3)).is_some() && replica.lookup(&digest(1)).is_none());
    assert_eq!(replica.checksum(), run.replica.checksum());
    assert_eq!(replica.suppressed(), run.replica.suppressed());
    let (ours, theirs) = (replica.status(), run.replica.status());
    // What is recalled the store shows again; what was refused for it stays so.
    assert_eq!(ReplicaStatus { position: theirs.position, recalled: theirs.recalled, ..ours }, theirs);
    let position = theirs.position.expect("settled");
    assert_eq!(machine, Synchroniser::resumed(position, position.checksum));
    assert_eq!(staleness(&replica, later(20)), Some(20), "as stale as without the restart");
    // Neither can come back.
    for number in [0, 1] {
        replica.merge(&SnapshotItem::Grant(digest(number), grant(number)));
        assert!(replica.lookup(&digest(number)).is_none());
    }
}

#[test]
fn nothing_is_fresher_than_its_last_proof() {
    let run = Run::usual();
    let folder = run.saved();
    for seconds in [0, 86_400] {
        assert_eq!(staleness(&load(&folder, later(seconds)).0, later(seconds)), Some(seconds));
    }
    let rebooted = Moment { boot: [2; 16], ..later(20) };
    let before = Moment { at: here().at.checked_sub(Duration::from_secs(5)).expect("later than that"), ..here() };
    for elsewhere in [rebooted, before] {
        let (replica, _) = load(&folder, elsewhere);
        assert_eq!((staleness(&replica, elsewhere), replica.status().grants), (None, 8));
    }
    let replica = Run::new();
    replica.file(&folder).load_now(None);
    assert_eq!(replica.replica.proven(), None, "no clock, no proof");
}

/// Whoever waits for a revocation knows of the sidecar that wrote the file, and of no other.
#[test]
fn a_copy_and_the_file_of_another_sidecar_prove_nothing() {
    let run = Run::usual();
    let folder = run.saved();
    let [path, copy, moved] = ["replica.snapshot", "copy", "moved"].map(|name| folder.path().join(name));
    let proven = |sidecar, path: &Path| {
        let run = Run::new();
        run.file_of(SidecarId(sidecar), path.to_owned()).load_now(Some(later(1)));
        assert_eq!(run.replica.status().grants, 8, "it saves reading all");
        run.replica.proven().is_some()
    };
    assert!(fs::copy(&path, &copy).expect("copies") > 0);
    assert!(proven(1, &path) && !proven(2, &path) && !proven(1, &copy));
    fs::rename(&path, &moved).expect("renames");
    assert!(proven(1, &moved));
}

/// Two numbers take turns where the file system gives that of the one that is gone to the next.
#[test]
fn an_older_copy_in_the_place_of_a_later_file_of_its_number_proves_nothing() {
    let run = Run::usual();
    let folder = run.saved();
    let path = folder.path().join("replica.snapshot");
    let inode = || fs::metadata(&path).expect("is there").ino();
    let (older, of_older) = (fs::read(&path).expect("reads"), inode());
    let again = (0..8).any(|_| {
        run.file(&folder).save_now(Some(here()));
        inode() == of_older
    });
    let proven = || load(&folder, later(1)).0.proven().is_some();
    assert!(proven());
    fs::write(&path, older).expect("writes");
    assert!(!proven(), "of the same number: {again}");
}

/// The store retains the report of the run before for as long as that one served without it.
#[test]
fn a_run_that_serves_longer_than_the_one_before_has_no_proof() {
    let folder = Run::usual().saved();
    let path = folder.path().join("replica.snapshot");
    for (bound, is_proven) in [(BOUND / 2, true), (BOUND, true), (BOUND + Duration::from_millis(1), false)] {
        let replica = Arc::new(Replica::new());
        let file = SnapshotFile::new(
            path.clone(),
            STORE.to_owned(),
            &mut SidecarIdentity::of(SidecarId(1)),
            bound,
            Arc::clone(&replica),
        );
        file.load_now(Some(later(1)));
        assert_eq!((replica.proven().is_some(), replica.status().grants), (is_proven, 8), "{bound:?}");
    }
}

#[test]
fn while_nothing_changes_only_the_proof_is_written() {
    let mut run = Run::usual();
    let folder = tempfile::tempdir().expect("a folder");
    let (file, path) = (run.file(&folder), folder.path().join("replica.snapshot"));
    file.save_if_changed(Some(here()));
    let first = fs::read(&path).expect("was written");
    let inode = || fs::metadata(&path).expect("is there").ino();
    let written = inode();
    let proven = |run: &Run, seconds| {
        run.replica.confirm(later(seconds).at);
        file.save_if_changed(Some(later(seconds)));
        load(&folder, later(seconds + 1)).0.proven() == Some(later(seconds).at)
    };
    assert!(proven(&run, 10) && proven(&run, 20));
    let renewed = fs::read(&path).expect("is there");
    let proof = first.len() - Proof::ENCODED;
    assert_eq!((inode(), &renewed[..proof], renewed.len()), (written, &first[..proof], first.len()));

    // The proofs of what is not in the file are not proofs of the file.
    run.commit(vec![remove(3)]);
    assert!(!proven(&run, 30));
    file.writing().due = None;
    assert!(proven(&run, 31) && inode() != written);
    run.replica.recall(&[digest(4)]);
    assert!(!proven(&run, 32));
    file.writing().due = None;
    assert!(proven(&run, 33));
    run.replica.begin_merge();
    assert!(!proven(&run, 34));
}

/// A user is disabled and a token revoked by commits before which there is much of the log to read.
#[test]
fn while_more_is_known_than_the_table_shows_revocations_are_written_and_nothing_is_proven() {
    let run = Run::usual();
    let folder = run.saved();
    let file = run.file(&folder);
    let disabled = Owner { name: "user 1".to_owned(), role: Role::Manager, enabled: false };
    let changes = vec![Change::PutOwner(UserId::from_u64(1), disabled), remove(5)];
    let ahead = LogEntry { id: CommitId(99), revision: Revision(99), head: Head(0), checksum: 0, changes };
    run.replica.anticipate(EPOCH, &ahead, run.now);
    file.save_now(Some(later(2)));
    let (replica, machine) = load(&folder, later(3));
    assert!(replica.proven().is_none() && replica.lookup(&digest(5)).is_none());
    let is_in_doubt = |replica: &Replica| {
        let holder = replica.lookup(&digest(4)).expect("by the table");
        replica.doubts(&digest(4), &holder, None)
    };
    assert!(is_in_doubt(&replica) && replica.held_users().is_empty(), "until its turn has come");
    assert!(replica.status().grants == 7 && machine != Synchroniser::new(), "it goes on from there");
    // Touched on the way to it, which is lost.
    let mut next = Run { replica, log: run.log.clone(), now: later(4).at };
    next.commit(vec![user(1)]);
    assert!(is_in_doubt(&next.replica));
    next.replica.reach(later(5).at);
    assert!(next.replica.lookup(&digest(4)).is_none() && next.replica.held_users() == ["user 1"]);
    run.replica.reach(later(2).at);
    run.replica.confirm(later(2).at);
    file.save_now(Some(later(2)));
    assert_eq!(load(&folder, later(3)).0.proven(), Some(later(2).at));
}

#[tokio::test]
async fn what_was_loaded_is_not_ready_before_its_own_first_proof() {
    let folder = Run::usual().saved();
    let (replica, _) = load(&folder, later(1));
    let ready = tokio::time::timeout(Duration::from_millis(20), replica.ready()).await;
    assert!(ready.is_err());
    replica.confirm(Instant::now());
    replica.ready().await;
}

#[test]
fn tombstones_keep_their_age() {
    let run = Run::usual();
    let folder = run.saved();
    let day = 24 * 60 * 60;
    assert_eq!(load(&folder, later(day)).0.status().tombstones, 1);
    assert_eq!(load(&folder, later(day + 2)).0.status().tombstones, 0);
    let rebooted = Moment { boot: [2; 16], ..later(2 * day) };
    assert_eq!(load(&folder, rebooted).0.status().tombstones, 1, "how long ago is not known");
}

#[test]
fn a_file_that_was_changed_anywhere_or_cut_short_is_ignored() {
    let run = Run::usual();
    let folder = run.saved();
    let path = folder.path().join("replica.snapshot");
    let bytes = fs::read(&path).expect("reads");
    let ignored = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).expect("writes");
        let (replica, machine) = load(&folder, later(1));
        let (status, empty) = (replica.status(), Replica::new().status());
        assert_eq!((status, machine), (empty, Synchroniser::new()), "{what}");
        assert_eq!((replica.proven(), replica.checksum()), (None, 0), "{what}");
    };
    let changed = |index: usize| {
        let mut changed = bytes.clone();
        changed[index] ^= 1 << (index % 8);
        changed
    };
    let proof = bytes.len() - Proof::ENCODED;
    for index in 0..proof {
        ignored(&changed(index), &format!("byte {index}"));
    }
    for index in proof..bytes.len() {
        fs::write(&path, changed(index)).expect("writes");
        let (replica, _) = load(&folder, later(1));
        assert_eq!((replica.proven(), replica.status().grants), (None, 8), "byte {index}: the proof alone is void");
    }
    for length in 0..bytes.len() {
        ignored(&bytes[..length], &format!("cut at {length}"));
    }
    ignored(&[&bytes[..], b"x"].concat(), "more than there was");
}

#[test]
fn an_ignored_file_is_named_with_its_reason() {
    let run = Run::usual();
    let folder = run.saved();
    let path = folder.path().join("replica.snapshot");
    let bytes = fs::read(&path).expect("reads");
    let reason = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("writes");
        Run::new().file(&folder).read().expect_err("ignored").to_string()
    };
    assert_eq!(reason(b""), "the file is not a snapshot file of this program");
    assert_eq!(reason(b"something quite different"), "the file is not a snapshot file of this program");
    let mut future = bytes.clone();
    future[16] = 3;
    assert_eq!(reason(&future), "the file is of version 3, and this program knows versions up to 2");
    assert_eq!(reason(&bytes[..100]), "the file is cut short");
    let mut other = bytes.clone();
    other[22..][..5].copy_from_slice(b"memcd");
    assert_eq!(reason(&other), "the file is of another store, \"memcd://example\"");
    let mut changed = bytes.clone();
    changed[200] ^= 1;
    assert_eq!(reason(&changed), "the file is damaged: its checksum is wrong");
    fs::write(&path, &bytes).expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).expect("sets");
    let file = |path: &Path| Run::new().file_of(SidecarId(1), path.to_owned()).read();
    assert!(matches!(file(&path), Err(FileError::Exposed)));
    assert!(matches!(file(folder.path()), Err(FileError::NoFile)));
}

/// As the version before wrote it: without commit ids and heads, and with the proof among the items.
#[test]
fn a_file_of_version_1_is_still_read() {
    use sha2::{Digest as _, Sha256};
    let moment = |moment: Moment| {
        let nanoseconds = u64::try_from(moment.at.uptime().as_nanos()).expect("fits");
        [&[1], &moment.boot[..], &nanoseconds.to_le_bytes()].concat()
    };
    let name = u16::try_from(STORE.len()).expect("fits").to_le_bytes();
    let mut bytes =
        [b"tollgate replica", &1u32.to_le_bytes()[..], &name, STORE.as_bytes(), &1u64.to_le_bytes()].concat();
    let owner = Owner { name: "anna".to_owned(), role: Role::Manager, enabled: true }.encode();
    let length = u16::try_from(owner.len()).expect("fits").to_le_bytes();
    bytes.extend([b"o", &1u32.to_le_bytes()[..], &1u64.to_le_bytes(), &length, &owner].concat());
    bytes.extend([b"g", &1u32.to_le_bytes()[..], digest(1).as_bytes(), &grant(1).encode()[..Grant::SHORT]].concat());
    bytes.extend([b"t", &1u32.to_le_bytes()[..], digest(2).as_bytes(), &0u32.to_le_bytes()].concat());
    bytes.extend([b"e", &1u32.to_le_bytes()[..], &moment(here()), &moment(later(1)), &[1]].concat());
    for word in [EPOCH.0, 5, 10, 5] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(Sha256::digest(&bytes));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("replica.snapshot");
    fs::write(&path, bytes).expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("sets");
    let (replica, _) = load(&folder, later(2));
    assert_eq!((replica.status().grants, replica.status().tombstones), (1, 1));
    assert_eq!(replica.proven(), None, "whose proof it was it does not say");
}

#[test]
fn a_missing_file_is_a_first_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let (replica, machine) = load(&folder, later(1));
    assert_eq!((machine, replica.status().grants), (Synchroniser::new(), 0));
}

#[test]
fn the_old_file_stays_until_the_new_one_is_whole_and_only_its_owner_reads_it() {
    let mut run = Run::usual();
    let folder = run.saved();
    let path = folder.path().join("replica.snapshot");
    let mode = || fs::metadata(&path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    let old = fs::read(&path).expect("reads");
    // Something in the way that cannot be removed.
    let new = folder.path().join("replica.snapshot.new");
    fs::create_dir_all(new.join("full")).expect("creates");
    run.commit(vec![remove(3)]);
    let file = run.file(&folder);
    file.save_now(Some(here()));
    assert!(fs::read(&path).expect("reads") == old && file.current().saved.is_none());
    fs::remove_dir_all(&new).expect("removes");
    // What a killed process left.
    fs::write(&new, "half").expect("writes");
    file.save_now(Some(here()));
    assert_ne!(fs::read(&path).expect("reads"), old);
    assert_eq!((file.current().saved.is_some(), mode()), (true, 0o600));
    assert_eq!(fs::read_dir(folder.path()).expect("reads").count(), 1);
}

/// One wrong path, and the registry would be gone.
#[test]
fn what_is_no_snapshot_is_not_replaced() {
    let run = Run::usual();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("replica.snapshot");
    for (foreign, is_replaced) in [(&b"SQLite format 3\0"[..], false), (b"to", true), (b"", true)] {
        fs::write(&path, foreign).expect("writes");
        run.file(&folder).save_now(Some(here()));
        assert_eq!(fs::read(&path).expect("reads") != foreign, is_replaced, "{foreign:?}");
    }
}

/// A pipe has no end to wait for.
#[test]
fn a_pipe_is_not_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("replica.snapshot");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("makes");
    load(&folder, here());
    Run::usual().file(&folder).save_now(Some(here()));
    assert!(!fs::metadata(&pipe).expect("is there").is_file());
}

#[test]
fn a_replica_that_was_never_proven_leaves_the_file_alone() {
    let folder = Run::usual().saved();
    let path = folder.path().join("replica.snapshot");
    let old = fs::read(&path).expect("reads");
    let rebooted = Moment { boot: [2; 16], ..later(20) };
    let run = Run::new();
    let file = run.file(&folder);
    file.load_now(Some(rebooted));
    file.save_now(Some(rebooted));
    assert_eq!(fs::read(&path).expect("reads"), old);
}

#[test]
fn a_replica_that_is_being_rebuilt_is_saved_without_a_position() {
    let run = Run::usual();
    run.replica.set_position(None);
    run.replica.begin_merge();
    run.replica.merge(&SnapshotItem::Grant(digest(50), grant(50)));
    let (replica, machine) = load(&run.saved(), later(20));
    assert_eq!(machine, Synchroniser::new());
    assert_eq!((seen(&replica, 60), staleness(&replica, later(20))), (seen(&run.replica, 60), Some(20)));
}

#[test]
fn a_resync_or_a_repair_while_the_file_is_written_leaves_it_without_a_position() {
    let run = Run::usual();
    let position = run.replica.status().position;
    /// Does this when the last block but the end is written.
    struct Meddling<'a>(&'a Replica, fn(&Replica));
    impl io::Write for Meddling<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if bytes.first() == Some(&b't') {
                (self.1)(self.0);
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let meddling = |meddle| {
        let mut encoder = Encoder::new(Meddling(&run.replica, meddle), STORE, 0).expect("writes");
        write_items(&mut encoder, &run.replica).expect("writes").map(|(position, _)| position)
    };
    assert_eq!(meddling(|_| {}), position);
    assert_eq!(meddling(|replica| assert_ne!(replica.repair(&[], &[]), 0)), None);
    assert_eq!(meddling(Replica::begin_merge), None);
    assert_eq!(run.replica.status().position, position);
}

/// The replica, as the state machine writes it.
struct PlainTable<'a>(&'a Replica);

impl Table for PlainTable<'_> {
    fn apply(&mut self, entry: &LogEntry, now: Instant) -> u64 {
        self.0.apply(entry, now)
    }
    fn revoke(&mut self, entry: &LogEntry, now: Instant) {
        self.0.revoke(entry, now);
    }
    fn anticipate(&mut self, epoch: Epoch, entry: &LogEntry, now: Instant) {
        self.0.anticipate(epoch, entry, now);
    }
    fn repair(&mut self, subjects: &[Subject], found: &[SnapshotItem], _now: Instant) -> u64 {
        self.0.repair(subjects, found)
    }
    fn sweep(&mut self) {
        self.0.sweep();
    }
    fn confirm(&mut self, as_of: Instant) {
        self.0.reach(as_of);
        self.0.confirm(as_of);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The file is written between the commits, at whatever block: the log after its position makes it exact.
    #[test]
    fn a_file_written_while_the_replica_moves_on_is_made_exact_by_the_log(
        before in 1..40u64,
        meanwhile in proptest::collection::vec((0..20usize, any::<bool>(), 0..60u64), 0..20),
    ) {
        let mut run = Run::new();
        run.commit((0..3).map(user).chain((0..before).map(put)).collect());
        run.replica.confirm(run.now);
        let run = std::cell::RefCell::new(run);
        /// Commits what is planned for a block before that block's bytes are taken.
        struct Busy<'a> {
            run: &'a std::cell::RefCell<Run>,
            meanwhile: &'a [(usize, bool, u64)],
            block: usize,
            bytes: Vec<u8>,
        }
        impl io::Write for Busy<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.bytes.extend_from_slice(bytes);
                for (_, adds, number) in self.meanwhile.iter().filter(|(block, ..)| *block == self.block) {
                    // A digest is never used again.
                    let change = if *adds { put(100 + 60 * self.block as u64 + number) } else { remove(*number) };
                    self.run.borrow_mut().commit(vec![change]);
                }
                self.block += 1;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let busy = Busy { run: &run, meanwhile: &meanwhile, block: 0, bytes: Vec::new() };
        let replica = Arc::clone(&run.borrow().replica);
        let mut encoder = Encoder::new(busy, STORE, 0).expect("writes");
        let position = write_items(&mut encoder, &replica).expect("writes");
        let trailer = Trailer { saved: None, bound: BOUND, position };
        let origin = Origin { sidecar: SidecarId(1), inode: 0, born: (0, 0) };
        let bytes = encoder.end(&trailer, Proof(None), origin).expect("writes").0.bytes;
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("replica.snapshot"), bytes).expect("writes");
        let run = run.into_inner();

        let (replica, mut machine) = load(&folder, later(1));
        let (now, last) = (here().at, run.replica.status().position.expect("settled"));
        let mut on = |input| machine.on(input, now, &mut PlainTable(&replica));
        prop_assert_eq!(on(Input::Tick).read, Some(Read::Position));
        let mut step = on(Input::Position(Probe::from(last)));
        if let Some(Read::Changes { after }) = step.read {
            let entries = run.log.iter().filter(|entry| entry.revision > after).cloned().collect();
            step = on(Input::Changes(Changes::Entries(entries)));
        }
        prop_assert_eq!(step.findings, vec![Finding::Synced(last)]);
        prop_assert_eq!(seen(&replica, 2_000), seen(&run.replica, 2_000));
        prop_assert_eq!(replica.status().tombstones, run.replica.status().tombstones);
    }
}

#[test]
fn a_user_who_is_held_to_what_was_seen_stays_so_after_a_restart() {
    let run = Run::usual();
    let enabled = |role| Owner { name: "somebody".to_owned(), role, enabled: true };
    let stamp = |number: u64| Stamp { id: CommitId(number.into()), revision: Revision(number) };
    let put = Change::PutOwner(UserId::from_u64(77), enabled(Role::Viewer));
    let entry = LogEntry { id: CommitId(9), revision: Revision(9), head: Head::START, checksum: 0, changes: vec![put] };
    run.replica.apply(&entry, run.now);
    run.replica.begin_merge();
    run.replica.merge(&SnapshotItem::Owner(UserId::from_u64(77), enabled(Role::Manager), stamp(3)));
    run.replica.sweep();
    assert_eq!(run.replica.held_users(), ["somebody"]);
    let folder = run.saved();
    let (replica, _) = load(&folder, later(1));
    assert_eq!(replica.held_users(), ["somebody"]);
    replica.begin_merge();
    replica.merge(&SnapshotItem::Owner(UserId::from_u64(77), enabled(Role::Manager), stamp(3)));
    replica.sweep();
    assert_eq!(replica.held_users(), ["somebody"], "and the store goes on showing what it showed");
}
