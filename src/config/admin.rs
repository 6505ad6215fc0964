//! `[admin]`: the admin listener and the console on it.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::reason::Reason;
use super::sections::ADDRESS;
use super::store::USERNAME;
use super::visit::{FILE, Maybe, Visitor, text};
use super::{prove, tls};
use crate::admin::AdminConfig;
use crate::store::settings::read_password;

/// How the admin listener is reached, for whoever needs no more, and may lack the right to read its private key.
pub(super) fn reached(address: &mut SocketAddr, certificate: &mut Option<PathBuf>, keys: &mut impl Visitor) {
    keys.value("address", &ADDRESS, address);
    keys.section("tls", |keys| keys.value("certificate", &Maybe(FILE), certificate));
}

/// The keys of `[admin]`.
pub(super) fn admin(config: &mut AdminConfig, keys: &mut impl Visitor) {
    let AdminConfig {
        address,
        tls,
        public_url,
        console,
        store_username,
        store_password_file,
        prove,
        max_connections: _,
    } = config;
    keys.value("address", &ADDRESS, address);
    keys.section("tls", |keys| tls::admin(tls, keys));
    keys.value("public_url", &Maybe(text()), public_url);
    keys.value("console", &Maybe(text()), console);
    keys.value("store_username", &Maybe(USERNAME), store_username);
    keys.value("store_password_file", &Maybe(FILE), store_password_file);
    keys.section("prove", |keys| prove::prove(prove, keys));
    keys.check(|section| {
        if let Some(Err(error)) = config.store_password_file.as_deref().map(read_password) {
            section.problem("store_password_file", Reason::invalid(error));
        }
        if section.has("store_password_file") && !section.has("store_username") {
            section.problem("store_password_file", Reason::Without("store_username"));
        }
        if config.is_exposed() {
            section.problem("address", Reason::ExposedConsole);
        }
    });
}
