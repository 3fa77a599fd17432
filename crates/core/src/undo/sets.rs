//! Which changes are one statement: those of a kind, of which none needs what another one does first.

use std::collections::{BTreeSet, HashMap};

/// What a change needs of others: a key of a table, or a value of a unique index.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Need {
    pub of: String,
    /// `None`: it may be any.
    pub values: Option<Vec<String>>,
    pub by: By,
}

/// Changes that do the same to a value do not wait for each other, but for those that alter the row that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum By {
    Altering,
    Taking,
    Freeing,
    Referring,
}

/// A change as it is to be placed. `kind`: those of one kind can be one statement; `None`: it stands alone, after
/// all before it and before all after it.
pub(super) struct Placed {
    pub kind: Option<String>,
    pub needs: Vec<Need>,
}

/// The last set that has needed something, for each way to need it.
#[derive(Default, Clone, Copy)]
struct Last([Option<usize>; 4]);

impl Last {
    /// The last one that is to be waited for.
    fn before(self, by: By) -> Option<usize> {
        let others = self.0.into_iter().enumerate();
        others.filter(|(other, _)| by == By::Altering || *other != by as usize).filter_map(|(_, set)| set).max()
    }

    fn take(&mut self, set: usize, by: By) {
        let last = &mut self.0[by as usize];
        *last = (*last).max(Some(set));
    }
}

#[derive(Default)]
struct Space {
    by_values: HashMap<Vec<String>, Last>,
    /// Of changes that may have needed any value.
    of_any: Last,
    all: Last,
}

/// Places of changes, set by set. In a set they keep their order.
pub(super) fn sets(changes: Vec<Placed>) -> Vec<Vec<usize>> {
    let mut sets: Vec<Vec<usize>> = Vec::new();
    let mut of_kind: HashMap<String, BTreeSet<usize>> = HashMap::new();
    let mut spaces: HashMap<String, Space> = HashMap::new();
    let mut first = 0; // no set before it is added to
    for (place, change) in changes.into_iter().enumerate() {
        let Some(kind) = change.kind else {
            sets.push(vec![place]);
            first = sets.len();
            continue;
        };
        let mut after = None;
        for need in &change.needs {
            let Some(space) = spaces.get(&need.of) else { continue };
            let last = match &need.values {
                None => space.all.before(need.by),
                Some(values) => {
                    let same = space.by_values.get(values).copied().unwrap_or_default();
                    same.before(need.by).max(space.of_any.before(need.by))
                }
            };
            after = after.max(last);
        }
        let from = after.map_or(first, |set| first.max(set + 1));
        let known = of_kind.entry(kind).or_default();
        let set = known.range(from..).next().copied().unwrap_or_else(|| {
            sets.push(Vec::new());
            sets.len() - 1
        });
        known.insert(set);
        sets[set].push(place);
        for need in change.needs {
            let space = spaces.entry(need.of).or_default();
            space.all.take(set, need.by);
            match need.values {
                None => space.of_any.take(set, need.by),
                Some(values) => space.by_values.entry(values).or_default().take(set, need.by),
            }
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn need(of: &str, value: Option<u8>, by: By) -> Need {
        Need { of: of.into(), values: value.map(|value| vec![value.to_string()]), by }
    }

    fn placed(kind: &str, needs: Vec<Need>) -> Placed {
        Placed { kind: (!kind.is_empty()).then(|| kind.into()), needs }
    }

    #[test]
    fn rows_of_two_tables_in_turns_are_two_sets() {
        let changes =
            (0..6).map(|n| placed(["a", "b"][n % 2], vec![need(["a", "b"][n % 2], Some(n as u8), By::Altering)]));
        assert_eq!(sets(changes.collect()), [[0, 2, 4], [1, 3, 5]]);
    }

    #[test]
    fn a_row_that_is_changed_twice_is_changed_in_order() {
        let changes = [1, 2, 1, 2, 1].map(|row| placed("a", vec![need("a", Some(row), By::Altering)]));
        assert_eq!(sets(changes.into()), [vec![0, 1], vec![2, 3], vec![4]]);
    }

    #[test]
    fn rows_that_refer_to_one_go_together_and_before_it() {
        let child =
            |n| placed("child", vec![need("child", Some(n), By::Freeing), need("parent", Some(1), By::Referring)]);
        let parent = placed("parent", vec![need("parent", Some(1), By::Freeing)]);
        assert_eq!(sets(vec![child(1), child(2), parent, child(3)]), [vec![0, 1], vec![2], vec![3]]);
    }

    #[test]
    fn what_stands_alone_parts_all_others() {
        let row = |n| placed("a", vec![need("a", Some(n), By::Altering)]);
        assert_eq!(sets(vec![row(1), placed("", vec![]), row(2)]), [[0], [1], [2]]);
    }

    #[test]
    fn values_that_are_freed_are_taken_after_that() {
        let row = |by| placed("a", vec![need("a unique", Some(1), by)]);
        assert_eq!(sets(vec![row(By::Freeing), row(By::Freeing), row(By::Taking)]), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn what_may_be_any_value_waits_for_all() {
        let row = |value| placed("a", vec![need("a", value, By::Altering)]);
        assert_eq!(sets(vec![row(Some(1)), row(None), row(Some(2))]), [[0], [1], [2]]);
    }

    proptest! {
        #[test]
        fn whoever_needs_the_same_keeps_the_order(
            changes in prop::collection::vec(
                (0..4u8, prop::collection::vec((0..2u8, prop::option::of(0..3u8), 0..4usize), 0..3)), 0..30)
        ) {
            let placed_changes = || changes.iter().map(|(kind, needs)| {
                let ways = [By::Altering, By::Taking, By::Freeing, By::Referring];
                let needs = needs.iter().map(|(of, value, by)| need(&of.to_string(), *value, ways[*by]));
                placed(["", "a", "b", "c"][*kind as usize], needs.collect())
            });
            let found = sets(placed_changes().collect());
            let mut set_of = vec![usize::MAX; changes.len()];
            for (set, places) in found.iter().enumerate() {
                prop_assert!(places.is_sorted());
                places.iter().for_each(|place| set_of[*place] = set);
            }
            prop_assert!(set_of.iter().all(|set| *set != usize::MAX), "none is lost");
            let all: Vec<_> = placed_changes().collect();
            for later in 0..all.len() {
                for earlier in 0..later {
                    let alone = all[later].kind.is_none() || all[earlier].kind.is_none();
                    let meet = all[later].needs.iter().any(|one| all[earlier].needs.iter().any(|two| {
                        one.of == two.of && (one.by != two.by || one.by == By::Altering)
                            && (one.values == two.values || one.values.is_none() || two.values.is_none())
                    }));
                    if alone || meet {
                        prop_assert!(set_of[earlier] < set_of[later]);
                    } else if set_of[earlier] == set_of[later] {
                        prop_assert_eq!(&all[earlier].kind, &all[later].kind);
                    }
                }
            }
        }
    }
}
