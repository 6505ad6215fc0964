//! The grid in which permissions are chosen: resource by action, what is out of reach greyed, with the reason.

use super::form::Form;
use super::trouble::Trouble;
use super::visitor::Visitor;
use crate::token::{Action, Permission, PermissionSet, Resource};

/// All resources.
pub(super) struct Grid {
    pub(super) rows: Vec<GridRow>,
    /// Why some cannot be chosen; `None`: all can.
    pub(super) limits: Option<String>,
}

/// One resource.
pub(super) struct GridRow {
    pub(super) resource: &'static str,
    /// Whether there is anything to choose.
    pub(super) is_open: bool,
    pub(super) cells: Vec<Cell>,
}

/// One permission.
pub(super) struct Cell {
    pub(super) action: &'static str,
    /// `None`: there is no such permission.
    pub(super) permission: Option<String>,
    pub(super) is_open: bool,
    pub(super) is_chosen: bool,
    /// Why it cannot be chosen.
    pub(super) reason: &'static str,
}

impl Grid {
    /// For this visitor, with what was chosen before.
    pub(super) fn of(visitor: &Visitor, chosen: PermissionSet) -> Self {
        let (own, role) = (visitor.holder.permissions, visitor.holder.role);
        let cell = |resource: Resource, action: Action| {
            let permission = Permission::new(resource, action);
            let is_open = permission.is_some_and(|permission| own.contains(permission));
            let is_of_role = permission.is_some_and(|permission| role.permissions().contains(permission));
            Cell {
                action: action.name(),
                is_chosen: is_open && permission.is_some_and(|permission| chosen.contains(permission)),
                permission: permission.map(|permission| permission.to_string()),
                is_open,
                reason: if is_of_role { "not in the token you are signed in with" } else { "not in your role" },
            }
        };
        let rows: Vec<_> = Resource::ALL
            .into_iter()
            .map(|resource| {
                let cells: Vec<_> = Action::ALL.into_iter().map(|action| cell(resource, action)).collect();
                GridRow { resource: resource.name(), is_open: cells.iter().any(|cell| cell.is_open), cells }
            })
            .collect();
        let is_limited = own != PermissionSet::all();
        let limits = is_limited.then(|| {
            format!(
                "A token can do no more than the one you are signed in with, nor than your role, {role}. What is out of \
                 reach is greyed."
            )
        });
        Self { rows, limits }
    }
}

/// What a form asks for.
///
/// # Errors
/// For what is no permission, and for none at all: that never means all.
pub(super) fn chosen(form: &Form) -> Result<PermissionSet, Trouble> {
    let chosen = match form.text("preset") {
        Some("telegraf-agent") => PermissionSet::TELEGRAF_AGENT,
        Some("custom") => custom(form)?,
        _ => return Err(Trouble::invalid("Choose a preset, or single permissions.")),
    };
    if chosen.is_empty() { Err(Trouble::invalid("Choose at least one permission.")) } else { Ok(chosen) }
}

/// The boxes that are ticked, also where the preset stands beside them.
///
/// # Errors
/// For what is no permission.
pub(super) fn custom(form: &Form) -> Result<PermissionSet, Trouble> {
    let single = form.all("permission").map(str::parse).collect::<Result<PermissionSet, _>>();
    let mut chosen = single.map_err(|_| Trouble::invalid("there is no such permission"))?;
    for name in form.all("every") {
        let resource = Resource::from_name(name).ok_or_else(|| Trouble::invalid("there is no such resource"))?;
        let all = resource.actions().iter().filter_map(|action| Permission::new(resource, *action));
        chosen = chosen.iter().chain(all).collect();
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(form: &str) -> Result<PermissionSet, String> {
        chosen(&Form::parse(form.as_bytes())).map_err(|trouble| trouble.detail)
    }

    #[test]
    fn nothing_chosen_is_never_everything() {
        for form in ["", "preset=custom", "preset=other", "permission=configs:read", "preset=custom&permission=x"] {
            assert!(asked(form).is_err(), "{form}");
        }
        assert_eq!(asked("preset=telegraf-agent&permission=users:write"), Ok(PermissionSet::TELEGRAF_AGENT));
        let all_of = asked("preset=custom&every=heartbeat&permission=configs:read").expect("good");
        let names: Vec<_> = all_of.iter().map(|permission| permission.to_string()).collect();
        assert_eq!(names, ["configs:read", "heartbeat:read", "heartbeat:write"]);
    }
}
