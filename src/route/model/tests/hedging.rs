//! What a model learns of streams that were given up when they were late.

use super::*;

fn patience(bench: &mut Bench, quantile: Quantile) -> Option<Duration> {
    let facts = bench.facts;
    let (prefix, offsets) = (Prefix::default(), bench.usual.offsets());
    let asking = Asking { facts: &facts, route: bench.route, prefix, output: OUTPUT, offsets };
    bench.model.first_token_within(&asking, quantile, bench.now)
}

/// Serves so many requests that scatter; whatever is later than this quantile is given up then. The share of the second
/// half that was.
fn share_given_up(quantile: Quantile, given_up: How) -> f64 {
    let (mut bench, mut random) = (Bench::new(), Random::seeded(7));
    let (mut late, requests) = (0_u32, 6_000_u32);
    for number in 0..requests {
        let took = (MS * 100).mul_f64((0.3 * random.gauss()).exp());
        let patience = patience(&mut bench, quantile);
        match patience.filter(|patience| took > *patience) {
            None => bench.serve(took, MS * 10, 32),
            Some(patience) => {
                let ticket = bench.send(SERVED);
                bench.now += patience + MS;
                assert_eq!(bench.model.ended(ticket, given_up, bench.now), None);
                late += u32::from(number > requests / 2);
            }
        }
        bench.now += SECOND;
    }
    f64::from(late) * 2.0 / f64::from(requests)
}

#[test]
fn nothing_is_late_before_anything_is_known() {
    let mut bench = Bench::new();
    assert_eq!(patience(&mut bench, Quantile::P95), None);
    for _ in 0..20 {
        bench.serve(MS * 100, MS * 10, 32);
    }
    assert!(patience(&mut bench, Quantile::P95).is_some_and(|within| within > MS * 100 && within < MS * 300));
}

#[test]
fn giving_up_late_ones_does_not_make_more_of_them_late() {
    for (quantile, allowed) in [(Quantile::P95, 0.05), (Quantile::P50, 0.50), (Quantile::P99, 0.01)] {
        let share = share_given_up(quantile, How::Outrun);
        assert!(share > allowed * 0.5 && share < allowed * 1.6, "{share} of {allowed}");
    }
}
