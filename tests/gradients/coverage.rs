//! The meta-test: every operator of every network at hand has a row, and every rule of the table
//! has one.

use std::collections::{BTreeMap, BTreeSet};

use crate::end_to_end::networks;
use crate::rows::rows;
use graftd::grad::{Entry, State, TABLE, operator_of};

fn proved() -> BTreeSet<String> {
    rows().iter().map(|row| operator_of(row.op.as_ref())).collect()
}

#[test]
fn every_rule_of_the_table_has_a_row() {
    let proved = proved();
    for entry in TABLE {
        let has_rule = matches!(entry.state, State::Rule(_));
        assert_eq!(proved.contains(entry.operator), has_rule, "{}", entry.operator);
        println!("{:<18} {:<9} {}", entry.operator, entry.family, entry.derivative);
    }
}

#[test]
fn every_operator_of_every_network_at_hand_has_a_row() {
    let proved = proved();
    for network in networks() {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for node in network.model.nodes() {
            *counts.entry(operator_of(node.op.as_ref())).or_default() += 1;
            let flat =
                Entry::of(node.op.as_ref()).is_some_and(|entry| matches!(entry.state, State::Flat));
            let operator = operator_of(node.op.as_ref());
            assert!(
                flat || proved.contains(&operator),
                "{}: operator {operator} of node `{}` has no row",
                network.id,
                node.name
            );
        }
        println!("{}: {counts:?}", network.id);
    }
}
