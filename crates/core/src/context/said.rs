//! What a transaction has told of itself. What a rolled back subtransaction has told is gone, as its messages are.

use std::rc::Rc;

/// Who logged in, as whom the session acts (SET ROLE), and with whose rights the code runs.
pub type Roles = [u32; 3];

/// What changes are annotated with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum InForce {
    /// Nobody has said anything.
    #[default]
    Nothing,
    OfSettings(Rc<str>),
    /// By a call, which wins over settings from there on. `None`: cleared.
    OfCall(Option<Rc<str>>),
}

/// What was told until some message.
#[derive(Clone, Debug, Default)]
struct Told {
    /// What rolls it back.
    subtransaction: u32,
    /// Whose records the message is among. It may have become part of another one.
    written_by: u32,
    /// Whose context was told.
    roles: Option<Roles>,
    in_force: InForce,
    /// Where the WAL goes on after the message.
    end: u64,
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug)]
pub struct At {
    pub subtransaction: u32,
    /// The end of the last record that it has written.
    pub last_end: u64,
    pub roles: Roles,
}

/// What becomes of annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tell {
    Set(Rc<str>),
    Clear,
}

/// What is to be told, now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Of its messages.
    pub number: u64,
    pub context: bool,
    pub annotations: Option<Tell>,
}

impl Due {
    pub fn is_nothing(&self) -> bool {
        !self.context && self.annotations.is_none()
    }
}

/// Of one transaction.
#[derive(Default)]
pub struct Said {
    /// Of each subtransaction the last, which tells what counts in it; the innermost stands last.
    told: Vec<Told>,
    messages: u64,
    version: u64,
    /// A call in a statement of its own has annotated what comes after it, and nothing has come yet.
    is_lost: bool,
}

impl Said {
    /// Before a row is written. `settings`: the annotations that they make now.
    pub fn due_before_write(&mut self, at: At, wants_context: bool, settings: Option<&str>) -> Due {
        let in_force = match (&self.last().in_force, settings) {
            (InForce::OfCall(call), _) => InForce::OfCall(call.clone()),
            (InForce::OfSettings(before), Some(now)) if **before == *now => InForce::OfSettings(Rc::clone(before)),
            (_, Some(now)) => InForce::OfSettings(now.into()),
            (_, None) => InForce::Nothing,
        };
        self.is_lost = false;
        self.due(at, wants_context, in_force, false)
    }

    /// When somebody annotates, or clears. `is_alone`: the transaction ends with the statement.
    pub fn due_of_call(&mut self, at: At, wants_context: bool, annotations: Option<&str>, is_alone: bool) -> Due {
        self.is_lost = is_alone && annotations.is_some();
        self.due(at, wants_context, InForce::OfCall(annotations.map(Rc::from)), true)
    }

    fn due(&mut self, at: At, wants_context: bool, in_force: InForce, is_call: bool) -> Due {
        let last = self.last();
        // PostgreSQL decodes a message as if it stood where it ends (PostgreSQL source, decode.c, logicalmsg_decode).
        // A change of another subtransaction that stands there might come before it.
        let is_told_again = !self.told.is_empty() && last.end == at.last_end && last.written_by != at.subtransaction;
        let context = wants_context && (last.roles != Some(at.roles) || is_told_again);
        let is_due = is_call || is_told_again || in_force != last.in_force;
        let annotations = match &in_force {
            _ if !is_due => None,
            InForce::OfSettings(text) | InForce::OfCall(Some(text)) => Some(Tell::Set(Rc::clone(text))),
            InForce::Nothing if last.in_force == InForce::Nothing => None,
            InForce::Nothing | InForce::OfCall(None) => Some(Tell::Clear),
        };
        let due = Due { number: self.messages, context, annotations };
        if !due.is_nothing() {
            self.messages += 1;
            self.version += 1;
            let roles = if context { Some(at.roles) } else { last.roles };
            self.told.pop_if(|told| told.subtransaction == at.subtransaction);
            let subtransaction = at.subtransaction;
            self.told.push(Told { subtransaction, written_by: subtransaction, roles, in_force, end: 0 });
        }
        due
    }

    /// What was due is in the WAL, to this position.
    pub fn is_told(&mut self, end: u64) {
        if let Some(last) = self.told.last_mut() {
            last.end = end;
        }
    }

    /// What somebody has annotated. `None`: nobody has, so settings count.
    pub fn of_call(&self) -> Option<Option<&str>> {
        match self.told.last().map(|told| &told.in_force) {
            Some(InForce::OfCall(annotations)) => Some(annotations.as_deref()),
            _ => None,
        }
    }

    fn last(&self) -> Told {
        self.told.last().cloned().unwrap_or_default()
    }

    pub fn subtransaction_aborts(&mut self, subtransaction: u32) {
        while self.told.pop_if(|told| told.subtransaction == subtransaction).is_some() {}
        self.version += 1;
    }

    pub fn subtransaction_commits(&mut self, subtransaction: u32, parent: u32) {
        if let Some(last) = self.told.pop_if(|told| told.subtransaction == subtransaction) {
            self.told.pop_if(|told| told.subtransaction == parent);
            self.told.push(Told { subtransaction: parent, ..last });
        }
    }

    /// Was an annotation lost?
    pub fn ends(&mut self) -> bool {
        let version = self.version + 1;
        std::mem::replace(self, Self { version, ..Self::default() }).is_lost
    }

    /// Another whenever what was told is another.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What the next row is annotated with, if nothing more is told.
    pub fn in_force(&self) -> Option<&str> {
        match &self.told.last()?.in_force {
            InForce::OfSettings(text) | InForce::OfCall(Some(text)) => Some(text),
            InForce::Nothing | InForce::OfCall(None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(subtransaction: u32, last_end: u64) -> At {
        At { subtransaction, last_end, roles: [1, 1, 1] }
    }

    #[test]
    fn the_first_write_tells_and_the_others_do_not() {
        let mut said = Said::default();
        let first = said.due_before_write(at(1, 0), true, Some("s"));
        assert_eq!((first.context, first.annotations), (true, Some(Tell::Set("s".into()))));
        said.is_told(10);
        assert!(said.due_before_write(at(1, 10), true, Some("s")).is_nothing());
        assert!(said.due_before_write(at(2, 20), true, Some("s")).is_nothing());
        said.ends();
        assert!(said.due_before_write(at(1, 30), true, None).context);
    }

    #[test]
    fn where_nothing_is_wanted_nothing_is_told() {
        assert!(Said::default().due_before_write(at(1, 0), false, None).is_nothing());
    }

    #[test]
    fn another_role_is_told() {
        let mut said = Said::default();
        said.due_before_write(at(1, 0), true, Some("s"));
        for roles in [[1, 2, 2], [1, 1, 2]] {
            let other = said.due_before_write(At { roles, ..at(1, 9) }, true, Some("s"));
            assert_eq!((other.context, other.annotations), (true, None));
            assert!(said.due_before_write(At { roles, ..at(1, 9) }, true, Some("s")).is_nothing());
        }
        assert!(said.due_before_write(at(1, 9), true, Some("s")).context);
    }

    #[test]
    fn a_call_wins_over_settings() {
        let mut said = Said::default();
        said.due_before_write(at(1, 0), true, Some("s"));
        assert_eq!(said.due_of_call(at(1, 5), true, Some("c"), false).annotations, Some(Tell::Set("c".into())));
        assert!(said.due_before_write(at(1, 9), true, Some("other")).is_nothing());
        assert_eq!(said.of_call(), Some(Some("c")));
        assert_eq!(said.due_of_call(at(1, 9), true, None, false).annotations, Some(Tell::Clear));
        assert!(said.due_before_write(at(1, 9), true, Some("other")).is_nothing());
        assert_eq!(said.of_call(), Some(None));
    }

    #[test]
    fn a_setting_that_changes_is_told_anew() {
        let mut said = Said::default();
        said.due_before_write(at(1, 0), true, Some("s"));
        let other = said.due_before_write(at(1, 9), true, Some("other"));
        assert_eq!((other.context, other.annotations), (false, Some(Tell::Set("other".into()))));
        assert_eq!(said.due_before_write(at(1, 9), true, None).annotations, Some(Tell::Clear));
        assert!(said.due_before_write(at(1, 9), true, None).is_nothing());
    }

    #[test]
    fn an_annotation_that_nothing_follows_is_lost() {
        for (is_alone, writes, is_lost) in [(true, false, true), (true, true, false), (false, false, false)] {
            let mut said = Said::default();
            said.due_of_call(at(1, 0), true, Some("c"), is_alone);
            if writes {
                said.due_before_write(at(1, 5), true, None);
            }
            assert_eq!(said.ends(), is_lost);
            assert!(!said.ends());
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write,
        Call(Option<u8>),
        Setting(Option<u8>),
        Begin,
        Release,
        RollBack,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Write),
            1 => prop::option::of(0..3u8).prop_map(Step::Call),
            1 => prop::option::of(0..3u8).prop_map(Step::Setting),
            2 => Just(Step::Begin),
            2 => Just(Step::Release),
            1 => Just(Step::RollBack),
        ]
    }

    /// By a call; settings count as they are at the write.
    #[derive(Clone, Default)]
    struct Meant {
        call: Option<Option<String>>,
    }

    /// With its subtransaction as it is now, 0 where it was rolled back, and as it was.
    enum Record {
        Message { context: bool, annotations: Option<Tell> },
        Write { meant: Option<String> },
    }

    proptest! {
        /// As PostgreSQL decodes it: in the order of the WAL, without what was rolled back. Where a write follows a
        /// message of another subtransaction at once, the write comes first.
        #[test]
        fn each_write_is_told_of_as_it_was_meant(steps in prop::collection::vec(step(), 0..60)) {
            let (mut said, mut wal, mut next) = (Said::default(), Vec::<(u32, u32, Record)>::new(), 2);
            // the subtransactions that are open, and what was meant when they began
            let mut open = vec![(1, Meant::default())];
            let (mut meant, mut setting) = (Meant::default(), None::<String>);
            for step in steps {
                let sub = open[open.len() - 1].0;
                let here = at(sub, wal.len() as u64);
                match step {
                    Step::Write | Step::Call(_) => {
                        let due = if let Step::Call(call) = &step {
                            let call = call.map(|call| format!("c{call}"));
                            meant.call = Some(call.clone());
                            said.due_of_call(here, true, call.as_deref(), false)
                        } else {
                            said.due_before_write(here, true, setting.as_deref())
                        };
                        if !due.is_nothing() {
                            let (context, annotations) = (due.context, due.annotations);
                            wal.push((sub, sub, Record::Message { context, annotations }));
                            said.is_told(wal.len() as u64);
                        }
                        if let Step::Write = step {
                            let meant = meant.call.clone().unwrap_or_else(|| setting.clone());
                            wal.push((sub, sub, Record::Write { meant }));
                        }
                    }
                    Step::Setting(value) => setting = value.map(|value| format!("s{value}")),
                    Step::Begin => {
                        open.push((next, meant.clone()));
                        next += 1;
                    }
                    Step::Release if open.len() > 1 => {
                        open.pop();
                        let parent = open[open.len() - 1].0;
                        said.subtransaction_commits(sub, parent);
                        for (of, ..) in wal.iter_mut().filter(|(of, ..)| *of == sub) {
                            *of = parent;
                        }
                    }
                    Step::RollBack if open.len() > 1 => {
                        if let Some((_, before)) = open.pop() {
                            meant = before;
                        }
                        said.subtransaction_aborts(sub);
                        for (of, ..) in wal.iter_mut().filter(|(of, ..)| *of == sub) {
                            *of = 0;
                        }
                    }
                    Step::Release | Step::RollBack => {}
                }
            }
            let mut decoded: Vec<usize> = (0..wal.len()).filter(|index| wal[*index].0 != 0).collect();
            for index in 1..wal.len() {
                let ((_, of, before), (_, other, write)) = (&wal[index - 1], &wal[index]);
                if of != other && matches!((before, write), (Record::Message { .. }, Record::Write { .. }))
                    && let Some(place) = decoded.windows(2).position(|pair| pair == [index - 1, index])
                {
                    decoded.swap(place, place + 1);
                }
            }
            let (mut has_context, mut in_force) = (false, None);
            for (of, _, record) in decoded.into_iter().map(|index| &wal[index]) {
                match record {
                    Record::Message { context, annotations } => {
                        has_context |= context;
                        match annotations {
                            Some(Tell::Set(text)) => in_force = Some(text.to_string()),
                            Some(Tell::Clear) => in_force = None,
                            None => {}
                        }
                    }
                    Record::Write { meant } => {
                        prop_assert!(has_context, "{of}");
                        prop_assert_eq!(meant, &in_force);
                    }
                }
            }
        }
    }
}
