"""`make analogs`: what it tells, what it warns of, what it cannot do and says so; and the picture it writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from encoder import show_analogs
from encoder.analog_chart import AnalogChart, fan, write_chart
from encoder.analog_library import Outlook, ask_the_past, ewma_volatility, log_returns, outlook, read_library
from encoder.schema import HORIZONS_S
from encoder.show_analogs import show
from shared.analogs import Analogs, NoEmbedding, find_analogs
from shared.clock import ReplayClock, from_unix, to_unix
from shared.db import Database
from shared.job import JobError
from shared.market_data import UnknownInstrument
from shared.rows import Candles
from shared.settings import Settings
from tests.helpers import NOON, random_candles, store_candles
from tests.shared.spine_rows import own_database
from tests.shared.test_analogs import insert_embeddings, insert_model, unit

HOUR, DAY = 3600, 86_400
AT = to_unix(NOON)
DAYS = 150
NEWEST = NOON + timedelta(days=2)


class Shop:
    """Two instruments embedded every six hours for 150 days, until two days after noon."""

    def __init__(
        self,
        settings: Settings,
        databases: tuple[Database, Database],
        ids: list[int],
        model: int,
        candles: list[Candles],
    ) -> None:
        self.encoder, self.owner = databases
        self.settings, self.ids, self.model, self.candles = settings, ids, model, candles

    def show(self, at: datetime = NOON, symbol: str = "AAA/USDT", exact: bool = True) -> tuple[str, Path]:
        clock = ReplayClock(at)
        return show(clock, self.encoder, self.settings, symbol, venue=None, exact=exact, shown=7)


@pytest.fixture(scope="module")
def shop(home: Path) -> Iterator[Shop]:
    with own_database(home, "shop") as (settings, database_for):
        encoder, rng, ids, all_candles = database_for("encoder"), np.random.default_rng(3), [], []
        model = insert_model(encoder, b"shop", NOON - timedelta(days=3), "active")
        for seed, symbol in enumerate(("AAA/USDT", "BBB/USDT")):
            candles = random_candles((DAYS + 2) * 24, HOUR, seed, end=AT + 2 * DAY, volatility=0.01)
            ids.append(store_candles(database_for, "test", symbol, HOUR, candles))
            as_of = candles.as_of[(candles.as_of - AT) % (6 * HOUR) == 0][4:]
            seen = unit(rng.normal(0, 1, (len(as_of), 64)))
            insert_embeddings(encoder, model, ids[-1], as_of, seen, NOON - timedelta(days=3))
            all_candles.append(candles)
        store_candles(database_for, "test", "CCC/USDT", HOUR, candles[:30])
        yield Shop(settings, (encoder, database_for("owner")), ids, model, all_candles)


def library_at(shop: Shop, at: datetime = NOON):  # type: ignore[no-untyped-def]
    return read_library(shop.encoder, shop.model, HOUR, shop.ids, at, at)


def test_it_tells_the_analogs_the_quantiles_and_where_the_picture_is(shop: Shop) -> None:
    text, path = shop.show()
    lines = text.splitlines()
    assert lines[0] == f"AAA/USDT on test at 2024-06-01 12:00 UTC, seen by encoder {shop.model}"
    assert max(map(len, lines)) <= 110
    analogs = find_analogs(shop.encoder, shop.model, shop.ids[0], HOUR, NOON, HORIZONS_S, 50)
    told = [line for line in lines if line[:4].isdecimal()]
    told = [line for line in told if "USDT" in line]
    assert len(told) == 7
    assert told[0].startswith(f"{from_unix(int(analogs.as_of[0])):%Y-%m-%d %H:%M}")
    assert told[0].split()[-2] == f"{100 * np.expm1(analogs.outcomes[0, -1]):+.2f}"
    result = outlook(library_at(shop), analogs, shop.ids[0], NOON, NOON - timedelta(days=3))
    (row,) = (line for line in lines if line.startswith("24h"))
    outer = result.half_widths[-1, -1]
    assert row.split()[1] == f"{100 * np.expm1(-outer):+.2f}"
    assert row.split()[7] == f"{100 * np.expm1(outer):+.2f}"
    assert row.split()[8] == str(result.moments[-1])
    assert "older than the encoder" in text
    assert "IN-SAMPLE" not in text
    assert path == shop.settings.home_path / "reports" / "analogs-AAA-USDT-20240601T1200.png"
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_without_a_time_it_is_the_newest_moment(shop: Shop) -> None:
    assert "at 2024-06-03 12:00 UTC" in shop.show(NEWEST + timedelta(hours=5), exact=False)[0]
    assert "at 2024-06-02 18:00 UTC" in shop.show(NEWEST - timedelta(hours=17), exact=False)[0]


def test_a_moment_before_the_encoder_was_known_is_in_sample(shop: Shop) -> None:
    assert "IN-SAMPLE: proves nothing" in shop.show(NOON - timedelta(days=4))[0]


def test_simulated_prices_are_called_so(shop: Shop) -> None:
    relabel = "UPDATE instruments SET provenance = %(provenance)s"
    shop.owner.execute(relabel, {"provenance": "simulated"})
    try:
        assert "SIMULATED: nothing here is about a real market" in shop.show()[0]
    finally:
        shop.owner.execute(relabel, {"provenance": "real"})
    assert "SIMULATED" not in shop.show()[0]


def test_what_a_simulated_market_did_is_not_told_of_a_real_one(shop: Shop) -> None:
    relabel = "UPDATE instruments SET provenance = %(provenance)s WHERE symbol = 'BBB/USDT'"
    assert "BBB/USDT" in shop.show()[0]
    shop.owner.execute(relabel, {"provenance": "simulated"})
    try:
        text, _ = shop.show()
    finally:
        shop.owner.execute(relabel, {"provenance": "real"})
    assert "BBB/USDT" not in text
    alone = read_library(shop.encoder, shop.model, HOUR, shop.ids[:1], NOON, NOON)
    analogs = find_analogs(shop.encoder, shop.model, shop.ids[0], HOUR, NOON, HORIZONS_S, 50)
    assert set(analogs.instrument.tolist()) == set(shop.ids)
    assert f" {len(ask_the_past(alone, shop.ids[0], AT, 50)[0])} " in text  # the days that calibrated


def test_what_cannot_be_shown_is_said_with_what_to_do(shop: Shop) -> None:
    with pytest.raises(NoEmbedding, match=r"at 2024-06-01 13:00 .*run `make run-encoder FROM=2024-06-01T13:00"):
        shop.show(NOON + timedelta(hours=1, minutes=20))
    with pytest.raises(NoEmbedding, match="no embedding of CCC/USDT on test"):
        shop.show(symbol="CCC/USDT", exact=False)
    with pytest.raises(UnknownInstrument, match="DDD/USDT"):
        shop.show(symbol="DDD/USDT")
    with pytest.raises(JobError, match=r"moments before .* can be analogs, 50 are needed"):
        shop.show(NOON - timedelta(days=DAYS - 30))
    with pytest.raises(JobError, match=r"of the 250 days before .* at least 50 are needed to calibrate"):
        shop.show(NOON - timedelta(days=DAYS - 70))


def test_without_an_encoder_it_says_which_job_makes_one(database_for, settings: Settings) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(JobError, match="run `make train-encoder`"):
        show(ReplayClock(NOON), database_for("encoder"), settings, "AAA/USDT", venue=None, exact=True, shown=5)


@pytest.mark.parametrize("k", ["0", "51", "-1", "x"])
def test_a_senseless_count_is_refused(k: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        show_analogs.main(["AAA/USDT", "--k", k])
    assert refused.value.code == 2
    assert "is not a number from 1 to 50" in capsys.readouterr().err


def test_the_command_line_reaches_the_answer(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shared.job.load_settings", lambda: shop.settings)
    assert show_analogs.main(["BBB/USDT", "--at", "2024-06-01T12:30", "--k", "3"]) == 0
    said = capsys.readouterr()
    assert "BBB/USDT on test at 2024-06-01 12:00 UTC" in said.out
    assert said.out.splitlines()[-1].endswith("analogs-BBB-USDT-20240601T1200.png")
    assert show_analogs.main(["NON/USDT"]) == 1
    assert "no candles of NON/USDT" in json.loads(capsys.readouterr().err.splitlines()[-1])["message"]


def an_outlook(tested: int, half_widths: list[float]) -> Outlook:
    whole = np.ones((3, 3))
    return Outlook(
        np.array(half_widths) * whole, whole, np.full(3, 60), np.full(3, 60), 0.8 * whole, np.full(3, tested)
    )


def told(shop: Shop, monkeypatch: pytest.MonkeyPatch, result: Outlook) -> str:
    monkeypatch.setattr("encoder.show_analogs.outlook", lambda *_: result)
    return shop.show()[0]


def test_a_share_of_a_handful_of_outcomes_is_not_told(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = [0.01, 0.02, 0.03]
    rows = {n: told(shop, monkeypatch, an_outlook(n, widths)).splitlines() for n in (0, 29, 30)}
    ends = {n: next(line.split()[-3:] for line in lines if line.startswith("24h")) for n, lines in rows.items()}
    assert ends[0] == ["too", "few", "0"]
    assert ends[29] == ["too", "few", "29"]
    assert ends[30] == ["1.00/1.00/1.00", "80/80/80", "30"]


def test_columns_that_are_equal_are_explained(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Bands of equal width" in told(shop, monkeypatch, an_outlook(40, [0.01, 0.02, 0.02]))
    assert "Bands of equal width" not in told(shop, monkeypatch, an_outlook(40, [0.01, 0.02, 0.03]))


def test_matplotlib_and_rich_come_only_with_the_picture_and_the_text() -> None:
    import subprocess

    code = "import sys, encoder.show_analogs; print({'matplotlib', 'rich', 'torch', 'onnxruntime'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"


# ── the library ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_library_is_what_was_seen_and_what_followed_by_then(shop: Shop) -> None:
    library = library_at(shop)
    assert (np.diff(library.as_of) >= 0).all()
    assert set(library.instrument.tolist()) == set(shop.ids)
    assert library.as_of.max() == AT
    for horizon, outcomes in zip(HORIZONS_S, library.outcomes.T, strict=True):
        assert np.array_equal(np.isfinite(outcomes), library.as_of + horizon <= AT)
    volatility = ewma_volatility(shop.candles[1], HOUR)
    at = np.array([AT - 6 * HOUR, AT - 30 * DAY])
    own = volatility[np.searchsorted(shop.candles[1].as_of, at)]
    assert library.volatility_at(np.full(2, shop.ids[1]), at) == pytest.approx(own)


def test_the_outlook_of_a_past_moment_is_the_same_when_more_has_happened(shop: Shop) -> None:
    """A library that ends later holds rows and outcomes that were unknown: none may count."""
    at = NOON - timedelta(days=1)
    analogs = find_analogs(shop.encoder, shop.model, shop.ids[0], HOUR, at, HORIZONS_S, 50)
    then = outlook(library_at(shop, at), analogs, shop.ids[0], at, NOON)
    assert (then.moments >= 50).all()
    asked_later = read_library(shop.encoder, shop.model, HOUR, shop.ids, NEWEST, NEWEST)
    later = outlook(asked_later, analogs, shop.ids[0], at, NOON)
    assert np.array_equal(then.half_widths, later.half_widths)
    assert np.array_equal(then.covered, later.covered)
    assert then.honest.tolist() == [0, 0, 0]


def test_the_past_is_asked_daily_with_what_was_known_then(shop: Shop) -> None:
    library = library_at(shop)
    library.embedding[:] += 0.2 * library.as_of[:, None] / AT  # later moments are nearer: they would be taken
    asked, found = ask_the_past(library, shop.ids[1], AT, 50)
    assert ((AT - library.as_of[asked]) % DAY == 0).all()
    assert library.as_of[asked[-1]] == AT - DAY
    assert (library.instrument[asked] == shop.ids[1]).all()
    assert found.shape == (len(asked), 50)
    assert (library.as_of[found] + DAY <= library.as_of[asked][:, None]).all()


def test_bands_follow_the_present_volatility(shop: Shop) -> None:
    library = library_at(shop)
    analogs = find_analogs(shop.encoder, shop.model, shop.ids[0], HOUR, NOON, HORIZONS_S, 50)
    plain = outlook(library, analogs, shop.ids[0], NOON, NOON)
    double = Analogs(analogs.instrument, analogs.as_of, analogs.similarity, analogs.outcomes * 2)
    assert outlook(library, double, shop.ids[0], NOON, NOON).half_widths == pytest.approx(2 * plain.half_widths)
    present = (library.instrument == shop.ids[0]) & (library.as_of == AT)
    library.volatility[present] *= 3
    assert outlook(library, analogs, shop.ids[0], NOON, NOON).half_widths == pytest.approx(3 * plain.half_widths)


def test_outcomes_and_volatility_by_hand() -> None:
    candles = random_candles(300, HOUR, 5)[np.delete(np.arange(300), [100, 150])]
    returns = log_returns(candles, HORIZONS_S)
    close = dict(zip(candles.as_of.tolist(), np.log(candles.close).tolist(), strict=True))
    for row, t in enumerate(candles.as_of.tolist()):
        expected = [close[t + h] - close[t] if t + h in close else np.nan for h in HORIZONS_S]
        assert returns[row] == pytest.approx(expected, nan_ok=True)
    steps = np.diff(np.log(candles.close)) ** 2 / (np.diff(candles.as_of) / HOUR)
    ages = np.arange(len(steps))[::-1]
    weights = 0.5 ** (ages / 24) * (ages < 8 * 24)
    assert ewma_volatility(candles, HOUR)[-1] == pytest.approx(np.sqrt((weights * steps).sum() / weights.sum()))
    assert np.isnan(ewma_volatility(candles[:1], HOUR)).tolist() == [True]


# ── the picture ─────────────────────────────────────────────────────────────────────────────────────────


def a_chart(followed: bool = True) -> AnalogChart:
    rng = np.random.default_rng(8)
    past, future = np.arange(-96, 1.0) * HOUR, np.arange(25.0) * HOUR
    walk = rng.normal(0, 0.005, (21, 121)).cumsum(axis=1)
    walk -= walk[:, [96]]
    return AnalogChart(
        title="AAA/USDT",
        subtitle="bands",
        warning="",
        past_s=past,
        present=walk[0, :97],
        before=walk[1:, :97],
        future_s=future,
        after=walk[1:, 96:],
        followed=walk[0, 96:] if followed else np.full(25, np.nan),
        horizons_s=np.array(HORIZONS_S, float),
        price=64_000,
        half_widths=np.outer([0.2, 0.4, 1.0], [0.01, 0.03, 0.05]),
    )


def test_the_picture_shows_paths_bands_and_what_followed(tmp_path: Path) -> None:
    from PIL import Image

    pixels = {}
    for followed in (True, False):
        write_chart(a_chart(followed), tmp_path / "new" / "a.png")
        with Image.open(tmp_path / "new" / "a.png") as image:
            assert image.size == (1760, 880)
            pixels[followed] = np.asarray(image.convert("RGB")).astype(int)
    for colour, share in (((15, 92, 122), 1e-3), ((180, 72, 59), 1e-3)):
        near = np.abs(pixels[True] - colour).sum(axis=2) < 40
        assert near.mean() > share, colour
    fan_colour = (pixels[True][..., 0] - pixels[True][..., 2]) > 15
    assert fan_colour[:, :880].mean() < 0.01 < fan_colour[:, 880:].mean()
    assert (np.abs(pixels[False] - (180, 72, 59)).sum(axis=2) < 40).sum() == 0


def test_no_legend_lies_over_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    write_chart(a_chart(), tmp_path / "a.png")
    figure = drawn[0]
    figure.canvas.draw()
    legends = [axes.get_legend() for axes in figure.axes[:2]]
    left, right = (legend.get_window_extent() for legend in legends if legend)
    assert left.y1 < figure.axes[0].xaxis.label.get_window_extent().y0
    assert right.y1 == left.y1
    assert left.x1 < right.x0
    assert 0 < left.x0 < right.x1 < figure.bbox.x1
    assert left.y0 > 0


def test_the_fan_goes_through_the_bands_at_their_horizons() -> None:
    chart = a_chart()
    widths = fan(chart)
    assert widths[[1, 4, 24]] == pytest.approx(chart.half_widths)
    assert (widths[0] == 0).all()
    assert (np.diff(widths, axis=0) > 0).all()
