import pytest

from dev.observe.promql import Matcher, Selector, narrowed, selectors

SELECTOR = 'a{b="x",c=~"5..",d!="z"}'


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("up", ["up"]),
        ("sum by (job, le) (rate(a_bucket[5m])) / on (job) b", ["a_bucket", "b"]),
        ("sum(rate(a[1m])) by (job) > 14.4e-3 and b offset 15m", ["a", "b"]),
        ("1 - parley:ratio:rate5m / on (slo) (1 - parley:objective)", ["parley:ratio:rate5m", "parley:objective"]),
        ("deriv(max(a)[15m:1m]) > 0 unless absent(b)", ["a", "b"]),
        ("histogram_quantile(0.99, sum without (pod) (rate(a[$__rate_interval])))", ["a"]),
        ('label_replace(a, "x", "$1", "y", "(b)")', ["a"]),
        ("vector(1)", []),
        ("a / ignoring (which) (b > 0)", ["a", "b"]),
    ],
)
def test_metrics_are_found_and_nothing_else(expression: str, found: list[str]) -> None:
    assert [selector.name for selector in selectors(expression)] == found


def test_matchers_are_read_with_braces_and_commas_in_their_values() -> None:
    (selector,) = selectors(r'rate(a{b="c,}d", e!~"f|g",h=~"5..", i!="\\."}[5m])')

    assert selector == Selector(
        "a",
        (Matcher("b", "=", "c,}d"), Matcher("e", "!~", "f|g"), Matcher("h", "=~", "5.."), Matcher("i", "!=", r"\.")),
    )


@pytest.mark.parametrize("labels", [{"b": "x", "c": "500"}, {"b": "x", "c": "503", "d": "y"}])
def test_series_is_selected_when_every_matcher_fits(labels: dict[str, str]) -> None:
    (selector,) = selectors(SELECTOR)

    assert selector.fits("a", labels)
    assert not selector.fits("other", labels)


@pytest.mark.parametrize(
    "labels",
    [{"b": "y", "c": "500"}, {"b": "x", "c": "5001"}, {"b": "x"}, {"b": "x", "c": "500", "d": "z"}],
)
def test_series_is_not_selected_when_one_does_not(labels: dict[str, str]) -> None:
    (selector,) = selectors(SELECTOR)

    assert not selector.fits("a", labels)


@pytest.mark.parametrize("expression", ["a{b", 'a{b="}', "a{b==1}"])
def test_what_is_no_selector_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"brace|matcher"):
        list(selectors(expression))


@pytest.mark.parametrize(
    ("expression", "made"),
    [
        ("up", 'up{n="x"}'),
        ("sum by (a) (rate(a[5m])) / on (a) b", 'sum by (a) (rate(a{n="x"}[5m])) / on (a) b{n="x"}'),
        ('rate(a{b="c,}d"}[5m]) > inf', 'rate(a{b="c,}d",n="x"}[5m]) > inf'),
        ("a {} offset 15m or vector(1)", 'a {n="x"} offset 15m or vector(1)'),
    ],
)
def test_each_selector_gets_a_further_matcher(expression: str, made: str) -> None:
    assert narrowed(expression, 'n="x"') == made
