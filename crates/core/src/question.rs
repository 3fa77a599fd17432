//! Which entries of the log somebody asks for, as a statement.
//!
//! Only what is asked stands in it. So PostgreSQL plans it for that, by the index that fits, once a session and
//! kind of question.

/// What is given. Its value is a parameter of the statement.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    pub id: bool,
    pub tables: bool,
    pub username: bool,
    pub request: bool,
    pub commit: bool,
    pub since: bool,
    pub until: bool,
    pub after: bool,
    pub newest_first: bool,
    pub most: Option<u64>,
}

/// Where an entry stands among those that are asked for, of whatever database.
const PLACE: [&str; 4] =
    ["l.commit_timestamp", "coalesce(l.commit_lsn, 0)", "coalesce(l.commit_idx, 2147483647)", "l.id"];

/// What tells whether the entry needs a record's life, from the log's row `l`.
pub const TOLD: &str = "l.audited_table, l.action::text AS action, l.commit_lsn, l.commit_idx, l.commit_timestamp,
  audit_cdc_internal.told_image(l.old_values, l.exact_values, 'old') AS old_values,
  audit_cdc_internal.told_image(l.new_values, l.exact_values, 'new') AS new_values,
  l.unknown_columns, l.unknown_old_columns, l.id, l.record_id";

/// What else a line is made of.
pub const SIGNED: &str = "l.may_change_key,
  audit_cdc_internal.lifted(l.annotations, 'username') AS username,
  audit_cdc_internal.lifted(l.annotations, 'source') AS source,
  audit_cdc_internal.lifted(l.annotations, 'request_id') AS request_id,
  nullif(
    CASE
      WHEN l.large_annotations IS NULL THEN l.annotations -> 'metadata'
      ELSE (
        SELECT g.annotations -> 'metadata'
        FROM audit_cdc_internal.large_annotations AS g
        WHERE g.id = l.large_annotations
      )
    END,
    'null') AS metadata,
  CASE WHEN l.server_context IS NOT NULL THEN (
    SELECT CASE
      WHEN l.transaction_start IS NULL THEN s.context
      ELSE s.context || jsonb_build_object('transaction_start', l.transaction_start)
    END
    FROM audit_cdc_internal.server_contexts AS s
    WHERE s.id = l.server_context
  ) END AS server_context,
  l.attested";

impl Question {
    /// Its parameters: 1 id, 2 numbers of tables, 3 username, 4 request_id, 5 commit_lsn, 6 since, 7 until.
    /// 8 the place after which the page begins. 9 numbers of this database's own tables. 10 how many entries at most.
    pub fn statement(&self) -> String {
        let direction = if self.newest_first { " DESC" } else { "" };
        let order = PLACE.map(|part| format!("{part}{direction}")).join(", ");
        let beyond = if self.newest_first { '<' } else { '>' };
        let place = "ARRAY[(extract(epoch FROM l.commit_timestamp) * 1000000)::bigint, coalesce(l.commit_lsn, 0), \
                     coalesce(l.commit_idx, 2147483647), l.id]";
        let conditions = [
            (self.id, "l.id = $1".into()),
            (self.tables, "l.audited_table = ANY ($2)".into()),
            (self.username, "audit_cdc_internal.lifted(l.annotations, 'username') = $3".into()),
            (self.request, "audit_cdc_internal.lifted(l.annotations, 'request_id') = $4".into()),
            (self.commit, "l.commit_lsn = $5".into()),
            (self.since, "l.commit_timestamp >= $6".into()),
            (self.until, "l.commit_timestamp < $7".into()),
            (self.after, format!("{place} {beyond} $8")),
            // whatever was delivered as this database's is forged
            (true, "(l.origin <> 'i' OR l.audited_table <> ALL ($9))".into()),
        ];
        let given: Vec<_> = conditions.into_iter().filter(|(given, _)| *given).map(|(_, text)| text).collect();
        // A number that stands there plans the statement; few are worth a plan of their own.
        let most = self.most.map_or(String::new(), |most| format!("LIMIT {}", most.max(1).next_power_of_two()));
        format!(
            "SELECT e.*
FROM (
  SELECT {TOLD}, {SIGNED}
  FROM audit_cdc_internal.log AS l
  WHERE {}
  ORDER BY {order}
  {most}
) AS e
LIMIT $10",
            given.join(" AND ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Question;

    #[test]
    fn only_what_is_asked_stands_in_it() {
        let all = Question::default().statement();
        let page = Question { username: true, until: true, newest_first: true, most: Some(50), ..Question::default() };
        let asked = page.statement();
        for (part, is_there) in [
            ("l.id = $1", false),
            ("'username') = $3", true),
            ("'request_id') = $4", false),
            ("< $7", true),
            (">= $6", false),
            ("ORDER BY l.commit_timestamp DESC", true),
            ("LIMIT 64", true),
        ] {
            assert_eq!(asked.contains(part), is_there, "{part}");
        }
        assert!(!all.contains("LIMIT 6") && all.contains("ORDER BY l.commit_timestamp, "));
    }

    #[test]
    fn pages_of_about_the_same_size_share_a_plan() {
        let of = |most| Question { most: Some(most), ..Question::default() }.statement();
        assert_eq!(of(33), of(64));
        assert_ne!(of(64), of(65));
        assert_eq!(of(0), of(1));
    }

    #[test]
    fn a_page_goes_on_in_its_direction() {
        let after = |newest_first| Question { after: true, newest_first, ..Question::default() }.statement();
        assert!(after(true).contains("l.id] < $8") && after(false).contains("l.id] > $8"));
    }
}
