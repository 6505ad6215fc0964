//! Commands that are to be safe to run again, run several times at once.

use super::{Finished, Folder};

impl Folder {
    /// How the same command ends, run at once.
    fn at_once(&self, arguments: &[&str]) -> Vec<Finished> {
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..6).map(|_| scope.spawn(|| self.run(arguments.iter().copied()))).collect();
            runs.into_iter().map(|run| run.join().expect("ends")).collect()
        })
    }

    /// How many of them said that.
    #[track_caller]
    fn said(&self, arguments: &[&str], what: &str) -> usize {
        let finished = self.at_once(arguments);
        finished.iter().filter(|finished| finished.done().starts_with(what)).count()
    }
}

#[test]
fn one_of_them_does_it_and_the_others_find_it_done() {
    let folder = Folder::new();
    for round in 0..4 {
        let name = format!("user-{round}");
        let add = ["user", "add", &name, "--role", "manager", "--if-not-exists"];
        assert_eq!(folder.said(&add, "added"), 1);
        let value = tollgate::token::RawToken::generate().expect("entropy");
        std::fs::write(folder.path("value"), value.reveal()).expect("writes");
        let create = ["token", "create", "--user", &name, "--description", "x", "--permission", "configs:read"];
        let create = [&create[..], &["--token-file", "value", "--if-not-exists"]].concat();
        assert_eq!(folder.said(&create, "created"), 1);
        let id = folder.create(&name, "y");
        assert_eq!(folder.said(&["token", "delete", &id, "--if-exists", "--yes"], "deleted"), 1);
        assert_eq!(folder.said(&["user", "delete", &name, "--if-exists", "--yes"], "deleted"), 1);
    }
}
