//! Parameters of a configuration: `&{name}` and `&{name:default}` in its text, replaced by the values that the agent's
//! URL has in its query. The Controller's syntax.

use std::collections::HashMap;

/// Why a configuration cannot be given out with these parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidParameters {
    /// A parameter without a default is not in the query.
    #[error("the configuration needs the parameter `{0}`: add `?{0}=...` to its URL")]
    Missing(String),
    /// Which of the two is meant?
    #[error("the parameter `{0}` is given twice")]
    Twice(String),
    /// `%` without two hexadecimal digits, or bytes that are not UTF-8.
    #[error("the query is not percent-encoded UTF-8")]
    Encoding,
}

/// Replaces the placeholders in `text` by the values in `query` (the part of a URL after `?`). Parameters that the text
/// does not name are ignored; what only looks like a placeholder stays as it is.
///
/// # Errors
/// [`InvalidParameters`] when the query cannot be read or lacks a value.
pub(crate) fn substitute(text: &str, query: &str) -> Result<String, InvalidParameters> {
    let values = parse_query(query)?;
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("&{") {
        result.push_str(before);
        let Some((placeholder, end)) = Placeholder::parse(after) else {
            result.push_str("&{");
            rest = after;
            continue;
        };
        match (values.get(placeholder.name), placeholder.default) {
            (Some(value), _) => push_escaped(&mut result, value),
            (None, Some(default)) => result.push_str(default),
            (None, None) => return Err(InvalidParameters::Missing(placeholder.name.to_owned())),
        }
        rest = &after[end..];
    }
    result.push_str(rest);
    Ok(result)
}

struct Placeholder<'a> {
    name: &'a str,
    default: Option<&'a str>,
}

impl<'a> Placeholder<'a> {
    /// Reads what follows `&{`, and says where the text goes on after the closing brace.
    fn parse(text: &'a str) -> Option<(Self, usize)> {
        let inside = text.split_once('}')?.0;
        let (name, default) = match inside.split_once(':') {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        let valid = !name.is_empty() && name.bytes().all(is_name) && !inside.contains('\n');
        valid.then_some((Self { name, default }, inside.len() + 1))
    }
}

/// Writes a value so that it means itself in a TOML basic string (`"..."`), and cannot end any kind of string or start
/// another key anywhere else: all but letters, digits and a few harmless signs becomes `\uXXXX`.
///
/// `$` and `{` are among the escaped, or a value could have Telegraf put its environment into the configuration.
fn push_escaped(result: &mut String, value: &str) {
    for character in value.chars() {
        match u32::from(character) {
            _ if character.is_alphanumeric() || " -._~:/@+%".contains(character) => result.push(character),
            code @ ..=0xffff => result.push_str(&format!("\\u{code:04X}")),
            code => result.push_str(&format!("\\U{code:08X}")),
        }
    }
}

fn parse_query(query: &str) -> Result<HashMap<String, String>, InvalidParameters> {
    let mut values = HashMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name)?;
        if values.contains_key(&name) {
            return Err(InvalidParameters::Twice(name));
        }
        values.insert(name, decode(value)?);
    }
    Ok(values)
}

/// Percent-decoding as in forms: `+` is a space.
fn decode(text: &str) -> Result<String, InvalidParameters> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        bytes.push(match *byte {
            b'+' => b' ',
            b'%' => {
                let (digits, after) = rest.split_first_chunk::<2>().ok_or(InvalidParameters::Encoding)?;
                rest = after;
                let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                let [high, low] = digits.map(digit);
                high.ok_or(InvalidParameters::Encoding)? << 4 | low.ok_or(InvalidParameters::Encoding)?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| InvalidParameters::Encoding)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn substituted(text: &str, query: &str) -> String {
        substitute(text, query).expect("valid")
    }

    #[test]
    fn placeholders_become_the_values_of_the_query() {
        assert_eq!(substituted("a = \"&{name}\"", "name=web-1"), "a = \"web-1\"");
        assert_eq!(substituted("&{a}&{b}", "b=2&a=1&unused=3"), "12");
        assert_eq!(substituted("&{a}", "a=x+y%20%C3%A9"), "x y é");
        assert_eq!(substituted("&{a}|&{b}", "a&b="), "|");
    }

    #[test]
    fn a_default_replaces_a_missing_value() {
        assert_eq!(substituted("every = \"&{every:10s}\"", ""), "every = \"10s\"");
        assert_eq!(substituted("every = \"&{every:10s}\"", "every=1m"), "every = \"1m\"");
        assert_eq!(substituted("&{url:http://127.0.0.1:80}", ""), "http://127.0.0.1:80");
        assert_eq!(substituted("&{empty:}", ""), "");
    }

    #[test]
    fn a_missing_value_without_default_is_named() {
        assert_eq!(substitute("&{a:1} &{b}", "c=1"), Err(InvalidParameters::Missing("b".to_owned())));
    }

    #[test]
    fn a_query_that_cannot_be_read_is_refused() {
        for query in ["a=%", "a=%4", "a=%zz", "a=%ff", "%C3=1"] {
            assert_eq!(substitute("", query), Err(InvalidParameters::Encoding), "{query}");
        }
        assert_eq!(substitute("", "a=1&%61=2"), Err(InvalidParameters::Twice("a".to_owned())));
    }

    #[test]
    fn what_only_looks_like_a_placeholder_stays() {
        for text in ["&{", "&{}", "&{a", "&{a b}", "&{:x}", "${a} @{a:b} &a {a}", "&{a\n:b}", "&{a:\n}"] {
            assert_eq!(substituted(text, "a=1"), text);
        }
    }

    proptest! {
        #[test]
        fn a_value_means_itself_and_adds_nothing(value in any::<String>()) {
            let query: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let text = substituted("a = \"&{v}\"\nb = 2", &format!("v={query}"));
            let table: toml::Table = text.parse().expect("still TOML");
            prop_assert_eq!(table.get("a").and_then(toml::Value::as_str), Some(value.as_str()));
            prop_assert_eq!(table.len(), 2);
        }

        #[test]
        fn a_value_cannot_break_out_of_a_place_without_quotes(value in any::<String>()) {
            let query: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
            for template in ["a = '&{v}'", "a = [1, &{v}]", "a = { x = &{v} }", "a = &{v}", "#&{v}"] {
                let text = substituted(&format!("{template}\nb = 2"), &format!("v={query}"));
                prop_assert_eq!(text.lines().count(), 2);
                if let Ok(table) = text.parse::<toml::Table>() {
                    prop_assert!(table.keys().all(|key| key == "a" || key == "b"));
                }
            }
        }

        #[test]
        fn a_text_without_placeholders_is_given_out_as_it_is(text in any::<String>(), query in any::<String>()) {
            if let Ok(given) = substitute(&text, &query) && !text.contains("&{") {
                prop_assert_eq!(given, text);
            }
        }
    }
}
