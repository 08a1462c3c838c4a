"""How a report looks, on light and dark screens and on paper; knows nothing of what it shows."""

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1d2128; --soft: #5d6571; --line: #dfe3e8; --panel: #f5f6f8;
  --best: #e3f0fa; --mark: #e69f00;
  --c0: #0072b2; --c1: #c44f00; --c2: #00835f; --c3: #b4528c; --c4: #a87400; --c5: #2b8fc4; --c6: #6b6f76 }
@media screen and (prefers-color-scheme: dark) { :root { --page: #14161a; --ink: #e6e8eb; --soft: #9aa3af;
  --line: #2d323a; --panel: #1c1f25; --best: #17344a;
  --c0: #5cb3ea; --c1: #f58b45; --c2: #35c79e; --c3: #e59ac8; --c4: #eec04f; --c5: #a3dbfa; --c6: #b4bac3 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.6 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", sans-serif; font-variant-numeric: tabular-nums }
main { max-width: 76rem; margin: 0 auto; padding: 4rem 2rem 6rem }
h1 { font-size: 2.1rem; line-height: 1.2; letter-spacing: -.02em; font-weight: 650; margin: 0; text-wrap: balance }
h2 { font-size: 1.4rem; line-height: 1.3; letter-spacing: -.01em; font-weight: 650; margin: 0 0 .75rem }
p, ul { max-width: 44rem; margin: 0 0 1rem } section { margin-top: 4.5rem }
.subtitle { color: var(--soft); font-size: 1.1rem; margin: .6rem 0 0; max-width: 54rem }
.summary { margin: 2.2rem 0 0; padding: 1.4rem 1.8rem; background: var(--panel); border-radius: 10px; max-width: 54rem }
.summary ul { list-style: none; padding: 0; margin: 0; font-size: 1.1rem; max-width: none }
.summary li + li { margin-top: .55rem }
nav { margin-top: 1.4rem; color: var(--soft); font-size: .92rem } nav a { color: inherit; margin-right: 1.4rem }
a { text-underline-offset: .2em; text-decoration-color: var(--line) }
figure { margin: 2rem 0 2.8rem } figcaption, caption { font-weight: 600; max-width: 54rem; margin-bottom: .9rem }
caption { text-align: left } .note { color: var(--soft); font-size: .88rem; margin: .7rem 0 0; max-width: 54rem }
.grid { display: grid; grid-template-columns: minmax(4.5rem, max-content) minmax(0, max-content); column-gap: .7rem }
.grid + .grid, .grid + label, label + .grid { margin-top: 1.5rem }
.names { display: grid; grid-auto-rows: 1fr; max-width: 9rem; font-size: .9rem; line-height: 1.25; text-align: right }
.names span { align-self: center } .grid img { display: block; max-width: 100%; height: auto }
.heads { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); width: 0; min-width: 100% }
.heads span { text-align: center; font-size: .8rem; color: var(--soft); overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap } .grid .still { display: none } .which { font-size: .9rem; font-weight: 600; text-align: right }
.hold { display: block; font-size: .88rem; color: var(--soft); margin-top: .9rem }
figure:has(.hold :checked) .moving { display: none } figure:has(.hold :checked) .still { display: block }
.scale { display: inline-block; width: 7rem; height: .7rem; border-radius: 2px; margin: 0 .4rem; vertical-align: -1px }
.given { display: inline-block; width: .8rem; height: .8rem; border: 2px solid var(--mark); margin-right: .4rem;
  vertical-align: -1px } .legend { margin-right: 1.6rem; white-space: nowrap }
.scroll { overflow-x: auto } table { border-collapse: collapse }
th, td { padding: .5rem 1.1rem .5rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }
th + th, td { padding-left: 1.1rem } thead th { color: var(--soft); font-size: .88rem; font-weight: 600;
  border-bottom-width: 2px; vertical-align: bottom } tbody th { font-weight: 500; min-width: 8rem }
.number { text-align: right; white-space: nowrap } .best { background: var(--best); font-weight: 650 }
.interval { color: var(--soft); font-size: .85em; font-weight: 400 }
.bar { display: block; position: relative; height: 8px; margin-top: .2rem; min-width: 8rem }
.bar i { position: absolute; top: 3px; height: 2px; background: var(--soft); min-width: 1px }
.bar b { position: absolute; top: 0; width: 8px; height: 8px; margin-left: -4px; border-radius: 50%;
  background: var(--c0) } .chart { max-width: 100%; min-width: 34rem; height: auto; display: block; color: var(--soft) }
.chart text { font-family: inherit !important } summary { cursor: pointer; font-weight: 600 }
details { margin-top: 4.5rem } details table { font-size: .88rem; margin-top: 1rem } details td, details th {
  padding-block: .25rem } details td { overflow-wrap: anywhere }
@media (max-width: 40rem) { main { padding: 2rem 1rem } .names { max-width: 5.5rem; font-size: .75rem } }
@media (prefers-reduced-motion: reduce) { .grid .moving, .hold { display: none } .grid .still { display: block } }
@media print { html { font-size: 11.5px } main { padding: 0; max-width: none } .scroll { overflow: visible }
  .grid .moving, .hold, nav { display: none } .grid .still { display: block } section { margin-top: 2rem }
  h2, figcaption { break-after: avoid }
  .grid, table, .chart { break-inside: avoid } * { print-color-adjust: exact } }
"""

MARK = "#e69f00"
"""The colour of the border of given frames: --mark above."""

NUM_COLOURS = 7
"""--c0 .. --c6 above: colours that colour-blind readers tell apart."""
