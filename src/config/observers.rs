//! `[access_log]` and `[traces]`: what is said of each request.

use super::reason::{Cause, Reason};
use super::sections::NAME;
use super::visit::{Maybe, Number, Text, Visitor, text};
use crate::access_log::{AccessLog, AccessLogConfig};
use crate::traces::TracesConfig;
use crate::upstream::UpstreamUrl;

/// What can be sampled: of so many, one.
const ONE_IN: Number = Number(0..=1_000_000);

/// TLS is left to the collector on this host.
const COLLECTOR: Text<UpstreamUrl> = Text {
    parse: |text| match text.parse::<UpstreamUrl>() {
        Ok(url) if !url.https => Ok(url),
        _ => Err(Reason::NotCollector),
    },
    print: UpstreamUrl::to_string,
};

pub(super) fn access_log(config: &mut AccessLogConfig, keys: &mut impl Visitor) {
    keys.value("output", &text(), &mut config.output);
    keys.value("format", &text(), &mut config.format);
    keys.value("one_in", &ONE_IN, &mut config.one_in);
    let config = &*config;
    keys.check(|section| {
        if section.is_sound("output")
            && let Err(error) = AccessLog::check(config)
        {
            section.problem("output", Reason::Unwritable(Cause::new(error)));
        }
    });
}

pub(super) fn traces(config: &mut TracesConfig, keys: &mut impl Visitor) {
    keys.value("endpoint", &Maybe(COLLECTOR), &mut config.endpoint);
    keys.value("one_in", &ONE_IN, &mut config.one_in);
    keys.value("service_name", &NAME, &mut config.service_name);
}
