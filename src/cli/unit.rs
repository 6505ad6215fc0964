//! Which registry a command is about that names none: the user's own, or that of the systemd unit on this host, which an
//! administrator's shell knows nothing of.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::{Overrides, Source, store_settings};
use crate::store::{Absent, Settings, StoreUrl};

/// The unit's configuration, and its state directory: see `deploy/systemd/tollgate.service`.
const CONFIG: &str = "etc/tollgate/tollgate.toml";
const STATE: &str = "var/lib/tollgate";

/// The registry of the unit.
#[derive(Debug)]
enum UnitRegistry {
    /// There is no unit.
    None,
    /// There is a unit, and is to be one there.
    Planned(Settings),
    /// It is there; with the unit's configuration, if it has one.
    There(Settings, Option<PathBuf>),
    /// This user may not look at this path.
    Hidden(PathBuf),
}

impl UnitRegistry {
    fn find(root: &Path) -> Self {
        let (config, state) = (root.join(CONFIG), root.join(STATE));
        if !config.exists() && !state.exists() {
            return Self::None;
        }
        let environment = vec![("STATE_DIRECTORY".into(), state.clone().into())];
        let file = config.exists().then(|| config.clone());
        let Ok(settings) = store_settings(&Source { file: file.clone(), environment }, &Overrides::default()) else {
            return Self::Hidden(config);
        };
        let StoreUrl::Sqlite(path) = &settings.url else { return Self::There(settings, file) };
        match std::fs::metadata(path) {
            Ok(_) => Self::There(settings, file),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Self::Hidden(state),
            Err(_) => Self::Planned(settings),
        }
    }
}

/// Which registry is used.
#[derive(Debug)]
pub(super) struct Chosen {
    /// Where it is.
    pub settings: Settings,
    /// The configuration that it was found in.
    pub config: Option<PathBuf>,
    /// What to say of it.
    pub said: Option<String>,
}

/// The one to use where the user's own would be `own`. `root` is where the unit's files are looked for: `/`.
pub(super) fn choose(own: Settings, absent: Absent, root: &Path) -> Chosen {
    let has_own = matches!(&own.url, StoreUrl::Sqlite(path) if path.exists());
    let is_own = |settings: &Settings| settings.url == own.url;
    let said = match UnitRegistry::find(root) {
        UnitRegistry::None => None,
        UnitRegistry::There(unit, _) | UnitRegistry::Planned(unit) if is_own(&unit) => None,
        UnitRegistry::There(unit, _) if has_own => {
            Some(format!("using {}; the systemd unit has another registry: --store {}", own.url, unit.url))
        }
        UnitRegistry::There(unit, config) => {
            let said = Some(format!("using the registry of the systemd unit, {}", unit.url));
            return Chosen { settings: unit, config, said };
        }
        UnitRegistry::Planned(unit) if absent == Absent::Create && !has_own => Some(format!(
            "using {}, which the systemd unit does not: its registry is made by `sudo -u tollgate tollgate --store {} init`",
            own.url, unit.url
        )),
        UnitRegistry::Planned(_) => None,
        UnitRegistry::Hidden(place) => Some(format!(
            "using {}; the systemd unit seems to have another registry, but this user cannot read {}: run the command as root, or as \
             the unit's user (sudo -u tollgate)",
            own.url,
            place.display()
        )),
    };
    Chosen { settings: own, config: None, said }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A host, with the file at `own` as the user's registry.
    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a directory"))
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("makes");
            fs::write(path, text).expect("writes");
        }

        /// Which is used, from the root on, and what is said.
        fn chosen(&self, absent: Absent) -> (String, String) {
            let own = Settings::from(StoreUrl::Sqlite(self.0.path().join("own.db")));
            let Chosen { settings, said, config } = choose(own, absent, self.0.path());
            assert!(config.is_none_or(|config| config.ends_with(CONFIG)));
            (settings.url.to_string().replace(&self.0.path().display().to_string(), ""), said.unwrap_or_default())
        }
    }

    #[test]
    fn without_a_unit_nothing_is_said() {
        assert_eq!(Host::new().chosen(Absent::Refuse), ("sqlite:/own.db".to_owned(), String::new()));
    }

    #[test]
    fn the_units_registry_is_found_and_said() {
        let host = Host::new();
        host.write("etc/tollgate/tollgate.toml", "");
        assert_eq!(host.chosen(Absent::Refuse), ("sqlite:/own.db".to_owned(), String::new()));
        let (used, said) = host.chosen(Absent::Create);
        assert_eq!(used, "sqlite:/own.db");
        assert!(said.contains("/var/lib/tollgate/tollgate.db init"), "{said}");
        host.write("var/lib/tollgate/tollgate.db", "x");
        for absent in [Absent::Refuse, Absent::Create] {
            let (used, said) = host.chosen(absent);
            assert_eq!(used, "sqlite:/var/lib/tollgate/tollgate.db");
            assert!(said.starts_with("using the registry of the systemd unit, sqlite:"), "{said}");
        }
    }

    #[test]
    fn the_users_own_is_used_and_another_one_is_said() {
        let host = Host::new();
        host.write("own.db", "x");
        host.write("etc/tollgate/tollgate.toml", "[store]\nurl = \"redis://user@h\"\npassword_file = \"/nowhere\"\n");
        let (used, said) = host.chosen(Absent::Refuse);
        assert_eq!(used, "sqlite:/own.db");
        assert!(said.contains("another registry"), "{said}");
        host.write("etc/tollgate/tollgate.toml", "[store]\nurl = \"redis://user@h\"\n");
        let (_, said) = host.chosen(Absent::Refuse);
        assert!(said.ends_with("--store redis://user@h:6379"), "{said}");
    }
}
