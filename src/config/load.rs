//! Gathering what was written, the file first, then the environment, then the flags, and judging it.

use std::cell::RefCell;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::keys::{self, Keys, Lister, Variable};
use super::problem::{Problem, Problems, redact};
use super::raw::{self, Node, Place, TomlTable, Value};
use super::read::{Reader, Section};
use super::reason::{Cause, Reason};
use super::visit::Visitor as _;
use super::{Config, admin, sections, store};
use crate::admin::AdminConfig;
use crate::audit;
use crate::reading;
use crate::store::{Settings, StoreUrl};

/// Names the file, where it is not named by a flag.
const FILE_VARIABLE: &str = "TOLLGATE_CONFIG";

/// The database's name within the state directory.
const DATABASE: &str = "tollgate.db";

/// Where the configuration comes from, flags aside.
pub struct Source {
    /// The file; without one, the one that `TOLLGATE_CONFIG` names, if it does. No file is read unasked.
    pub file: Option<PathBuf>,
    /// The environment: keys as `TOLLGATE_...`, and what says where state is stored.
    pub environment: Vec<(OsString, OsString)>,
}

impl Source {
    /// This process's environment.
    pub fn of_process(file: Option<PathBuf>) -> Self {
        Self { file, environment: std::env::vars_os().collect() }
    }

    /// This file alone: of the environment only what says where state is stored.
    pub fn of_file(file: PathBuf) -> Self {
        let mut source = Self::of_process(Some(file));
        source.environment.retain(|(name, _)| {
            let name = name.to_string_lossy().to_ascii_uppercase();
            !name.starts_with("TOLLGATE_")
        });
        source
    }

    /// Without what says nothing of the store, its audit trail or the registry in it: the file that was not asked for in the command itself, and
    /// variables for other keys.
    pub fn only_store(mut self) -> Self {
        self.environment.retain(|(name, _)| {
            let name = name.to_string_lossy().to_ascii_uppercase();
            // The whole table, its keys, and what may be one of these misspelt.
            let of_store = ["TOLLGATE_STORE", "TOLLGATE_AUDIT", "TOLLGATE_REGISTRY"];
            !name.starts_with("TOLLGATE_") || of_store.iter().any(|section| name.starts_with(section))
        });
        self
    }

    fn variable(&self, name: &str) -> Option<&OsString> {
        self.environment.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// The store where none is named: that of the state directory. (Where there is no such directory, one must be named.)
    fn store(&self) -> StoreUrl {
        self.default_store().unwrap_or_else(|| StoreUrl::Sqlite(DATABASE.into()))
    }

    /// Why [`Self::store`] is not one to use, if it is not.
    fn no_store(&self) -> Option<Reason> {
        match self.default_store() {
            None => Some(Reason::NoStateDirectory),
            // What is printed of it has to mean the same.
            Some(url) if url.to_string().parse().as_ref() != Ok(&url) => Some(Reason::UnusableStateDirectory),
            Some(_) => None,
        }
    }

    /// `sqlite:` in `$STATE_DIRECTORY` (set by systemd), `$XDG_STATE_HOME/tollgate` or `$HOME/.local/state/tollgate`.
    fn default_store(&self) -> Option<StoreUrl> {
        let set = |name: &str| self.variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // systemd lists several directories with colons between them; the first is the service's own.
        let by_systemd = || {
            let directories = set("STATE_DIRECTORY")?;
            match directories.to_str().and_then(|all| all.split(':').next()) {
                Some(first) => Some(PathBuf::from(first)),
                None => Some(directories),
            }
        };
        // The XDG specification has relative paths ignored.
        let by_xdg = || set("XDG_STATE_HOME").filter(|path| path.is_absolute()).map(|state| state.join("tollgate"));
        let by_home = || set("HOME").map(|home| home.join(".local/state/tollgate"));
        by_systemd().or_else(by_xdg).or_else(by_home).map(|directory| StoreUrl::Sqlite(directory.join(DATABASE)))
    }
}

/// What flags say, as given.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--listen`. With one listener written and one address given, that listener moves there and stays otherwise as it
    /// is; else the addresses replace all listeners, unless one of these has more than an address, which must not get lost.
    pub listen: Vec<String>,
    /// `--api-upstream`
    pub api_upstream: Option<String>,
    /// `--heartbeat-upstream`
    pub heartbeat_upstream: Option<String>,
    /// `--store`
    pub store: Option<String>,
    /// `--admin-listen`
    pub admin_listen: Option<String>,
}

/// Reads the configuration: defaults, over them the file, over it the environment, over that the flags.
///
/// Reads the files that it names too (certificates, keys, tokens), to find fault now and not with the first request.
///
/// # Errors
/// Everything that is wrong. A file that cannot be read, or is no TOML, hides what else is.
pub fn load(source: &Source, overrides: &Overrides) -> Result<Config, Problems> {
    let mut config = Config::with_store(source.store());
    let written = RawConfig::gather(source, overrides)?;
    let overridden = written.judge_each(|keys| config.clone().walk(keys));
    written.read(Some(source), overridden, |keys| config.walk(keys))?;
    Ok(config)
}

/// Reads only where the registry is stored: for commands that need nothing else, and may lack the right to read a
/// listener's private key.
///
/// # Errors
/// As [`load`], of other keys only those that do not exist.
pub fn store_settings(source: &Source, overrides: &Overrides) -> Result<Settings, Problems> {
    read_part(source, overrides, Some(source), Settings::from(source.store()), |settings, keys| {
        keys.section("store", |keys| store::store(settings, keys));
    })
}

/// How the admin listener is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminListener {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it shows (PEM); `None`: it speaks plain HTTP.
    pub certificate: Option<PathBuf>,
}

/// Reads only how the admin listener is reached.
///
/// # Errors
/// As [`store_settings`].
pub fn admin_listener(source: &Source) -> Result<AdminListener, Problems> {
    let usual = AdminListener { address: AdminConfig::default().address, certificate: None };
    read_part(source, &Overrides::default(), None, usual, |AdminListener { address, certificate }, keys| {
        keys.section("admin", |keys| admin::reached(address, certificate, keys));
    })
}

/// Reads one section, over its defaults. With `of_store`, it must say where the store is.
fn read_part<T: Clone>(
    source: &Source,
    overrides: &Overrides,
    of_store: Option<&Source>,
    mut part: T,
    walk: impl Fn(&mut T, &mut Reader<'_>),
) -> Result<T, Problems> {
    let written = RawConfig::gather(source, overrides)?;
    let overridden = written.judge_each(|keys| walk(&mut part.clone(), keys));
    written.read(of_store, overridden, |keys| walk(&mut part, keys))?;
    Ok(part)
}

/// Reads only what becomes of the audit trail.
///
/// # Errors
/// As [`store_settings`].
pub fn audit_settings(source: &Source) -> Result<audit::Settings, Problems> {
    let mut settings = audit::Settings::default();
    let walk = |settings: &mut audit::Settings, keys: &mut Reader<'_>| {
        keys.section("audit", |keys| sections::audit(settings, keys));
    };
    let written = RawConfig::gather(source, &Overrides::default())?;
    let overridden = written.judge_each(|keys| walk(&mut settings.clone(), keys));
    written.read(None, overridden, |keys| walk(&mut settings, keys))?;
    Ok(settings)
}

/// Reads only how long new tokens may live.
///
/// # Errors
/// As [`store_settings`].
pub fn max_token_lifetime(source: &Source) -> Result<Option<Duration>, Problems> {
    read_part(source, &Overrides::default(), None, None, |lifetime, keys| {
        keys.section("registry", |keys| sections::max_token_lifetime(lifetime, keys));
    })
}

/// Every key there is.
pub(super) fn all_keys() -> Keys {
    let mut lister = Lister::default();
    Config::with_store(StoreUrl::Sqlite(DATABASE.into())).walk(&mut lister);
    lister.keys
}

/// What was written, all of it in one tree, and what was written at each place.
struct RawConfig {
    /// What is in effect of it.
    root: TomlTable,
    /// What something else may have been put over, by the place where it was written: the file, and variables with tables.
    places: Vec<TomlTable>,
    problems: Vec<Problem>,
}

impl RawConfig {
    fn gather(source: &Source, overrides: &Overrides) -> Result<Self, Problems> {
        let named = source.variable(FILE_VARIABLE).filter(|_| source.file.is_none());
        if named.is_some_and(|name| name.is_empty()) {
            let place = Place::Variable(FILE_VARIABLE.to_owned());
            return Err(Problems::new(vec![Problem::at(Some(&place), "", Reason::NamesNoFile)]));
        }
        let file = source.file.clone().or_else(|| named.map(PathBuf::from));
        let root = file.map_or_else(|| Ok(TomlTable::new()), read_file).map_err(Problems::new)?;
        let mut written = Self { places: vec![root.clone()], root, problems: Vec::new() };
        let keys = all_keys();
        written.put_environment(&keys, source);
        written.places.iter().for_each(|place| keys::note_unknown(&keys, place, &mut written.problems));
        written.put_flags(overrides);
        Ok(written)
    }

    fn put_environment(&mut self, keys: &Keys, source: &Source) {
        let mut variables: Vec<_> = source.environment.iter().filter(|(name, _)| name != FILE_VARIABLE).collect();
        // A table before its keys, so that these win; and problems in the same order each time.
        variables.sort();
        for (name, value) in variables {
            let name = name.to_string_lossy();
            match keys::identify(keys, &name) {
                Variable::Foreign => {}
                Variable::Unknown(problem) => self.problems.push(problem),
                Variable::Key(path) => {
                    let place = Place::Variable(name.into_owned());
                    match value.to_str() {
                        Some(text) => self.put_variable(&path, Node::outside(text, place)),
                        None => self.problems.push(Problem::at(Some(&place), &path, Reason::NotUtf8)),
                    }
                }
            }
        }
    }

    fn put_variable(&mut self, path: &str, node: Node) {
        if let Value::Table(_) | Value::List(_) = node.value {
            let mut place = TomlTable::new();
            raw::put(&mut place, path, node.clone());
            self.places.push(place);
        }
        raw::put(&mut self.root, path, node);
    }

    fn put_flags(&mut self, overrides: &Overrides) {
        let Overrides { listen, api_upstream, heartbeat_upstream, store, admin_listen } = overrides;
        self.put_listeners(listen);
        let flags = [
            ("--api-upstream", "upstream.api.url", api_upstream),
            ("--heartbeat-upstream", "upstream.heartbeat.url", heartbeat_upstream),
            ("--store", "store.url", store),
            ("--admin-listen", "admin.address", admin_listen),
        ];
        for (flag, path, text) in flags {
            if let Some(text) = text {
                raw::put(&mut self.root, path, Node::outside(text, Place::Flag(flag)));
            }
        }
    }

    fn put_listeners(&mut self, addresses: &[String]) {
        let place = Place::Flag("--listen");
        let address = |text: &String| Node::at(place.clone(), Value::Text(text.clone()));
        let written = match self.root.get_mut("listener") {
            Some(Node { value: Value::List(items), .. }) => items.as_mut_slice(),
            // Found fault with when it is read.
            Some(_) => return,
            None => &mut [],
        };
        match (written, addresses) {
            (_, []) => {}
            ([Node { value: Value::Table(listener), .. }], [only]) => {
                listener.insert("address".to_owned(), address(only));
            }
            (written, addresses) => {
                if !written.iter().all(has_only_address) {
                    self.problems.push(Problem::at(Some(&place), "listener", Reason::ReplacedListeners));
                }
                let listener = |text| {
                    let table = TomlTable::from([("address".to_owned(), address(text))]);
                    Node::at(place.clone(), Value::Table(table))
                };
                let listeners = addresses.iter().map(listener).collect();
                self.root.insert("listener".to_owned(), Node::at(place, Value::List(listeners)));
            }
        }
    }

    /// Takes the walk over each place by itself: what is wrong there is wrong although something else is in effect, or the
    /// file would no longer be good on the day when that is gone.
    fn judge_each(&self, walk: impl Fn(&mut Reader<'_>)) -> Vec<Problem> {
        let judge = |place| {
            let problems = RefCell::new(Vec::new());
            walk(&mut Reader::of_place(Section::root(place, &problems)));
            problems.into_inner()
        };
        self.places.iter().flat_map(judge).collect()
    }

    /// Takes the walk over what is in effect; all is well only if nobody found fault with anything. With a source, it must say
    /// where the store is.
    fn read(
        self,
        source: Option<&Source>,
        overridden: Vec<Problem>,
        walk: impl FnOnce(&mut Reader<'_>),
    ) -> Result<(), Problems> {
        let problems = RefCell::new(self.problems);
        let root = Section::root(&self.root, &problems);
        let store = root.section("store");
        if let Some(why) = source.and_then(Source::no_store).filter(|_| !store.has("url")) {
            store.problem("url", why);
        }
        walk(&mut Reader::in_effect(root));
        let mut problems = problems.into_inner();
        problems.extend(overridden);
        if problems.is_empty() { Ok(()) } else { Err(Problems::new(problems)) }
    }
}

/// Whether a listener is written without anything that an address in its place would lose.
fn has_only_address(listener: &Node) -> bool {
    matches!(&listener.value, Value::Table(table) if table.keys().all(|key| key == "address"))
}

fn read_file(file: PathBuf) -> Result<TomlTable, Vec<Problem>> {
    // Somebody may have put the file's content where its name belongs.
    let name: Arc<str> = redact(file.display().to_string().lines().next().unwrap_or_default()).into();
    let text = read_text(&file, &name).map_err(|reason| vec![Problem::at(None, "", reason)])?;
    raw::parse(&text, &name).map_err(|errors| {
        let errors = errors.into_iter();
        errors.map(|(place, message)| Problem::at(Some(&place), "", Reason::Syntax(message))).collect()
    })
}

fn read_text(file: &Path, name: &Arc<str>) -> Result<String, Reason> {
    let bytes =
        reading::read(file).map_err(|error| Reason::Unreadable { file: name.clone(), cause: Cause::new(error) })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        Reason::NotText { file: name.clone(), line: memchr::memchr_iter(b'\n', valid).count() + 1 }
    })
}

#[cfg(test)]
mod tests;
