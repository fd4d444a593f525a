"""The style of a report.

Colours are those of Okabe and Ito (2008), which people tell apart who see fewer of them; texts have a contrast of at
least 4.5 to 1 (WCAG 2.2, AA).
"""

STYLE = """
:root{color-scheme:light dark;--paper:#fbfaf7;--card:#fff;--ink:#1b1e23;--soft:#5c636e;--rule:#e2dfd8;--grid:#e6e3dc;
--good:#00694b;--bad:#a83b00;--c0:#0072b2;--c1:#e69f00;--c2:#009e73;--c3:#d55e00;--c4:#56b4e9;--c5:#cc79a7;--c6:#8a7a00;
--c7:#b4b2ac;--heat:#0072b2;--halo:#fff}
@media (prefers-color-scheme:dark){:root{--paper:#14171b;--card:#1b1f25;--ink:#e9e7e2;--soft:#a2a8b1;--rule:#30353d;
--grid:#2b3037;--good:#4fd1a5;--bad:#ff9d66;--c0:#4aa8e0;--c1:#f0b429;--c2:#2fc397;--c3:#f07a33;--c4:#8fd3ff;--c5:#e3a0c4;
--c6:#d6cd55;--c7:#6d727a;--heat:#6cbdf2;--halo:#14171b}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:2.5rem 1.25rem 4rem;background:var(--paper);color:var(--ink);
font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
h1,h2{font-family:Charter,"Bitstream Charter","Sitka Text",Cambria,Georgia,"DejaVu Serif",serif;line-height:1.2;
font-weight:600;text-wrap:balance;margin:0}
h1{font-size:clamp(1.7rem,5vw,2.5rem);letter-spacing:-.01em}
h2{font-size:clamp(1.2rem,3.4vw,1.5rem)}
h3{font-size:1rem;margin:1.6rem 0 .4rem}
p{margin:.5rem 0;max-width:44rem}
.soft,.eyebrow,figcaption{color:var(--soft)}
.eyebrow{font-size:.78rem;letter-spacing:.07em;text-transform:uppercase;margin:0 0 .3rem;font-weight:600}
.soft,figcaption,details,table{font-size:.9rem}
section{border-top:1px solid var(--rule);margin-top:2.6rem;padding-top:1.5rem}
.findings{padding:0;margin:1.4rem 0;list-style:none;max-width:44rem}
.findings li{padding:.45rem 0 .45rem 1.5rem;border-bottom:1px solid var(--rule);position:relative}
.findings li::before{content:"";position:absolute;left:.1rem;top:1rem;width:.65rem;height:.65rem;border-radius:50%;
background:var(--c7)}
.findings .bad::before{background:var(--bad);border-radius:0;transform:rotate(45deg)}
.findings .good::before{background:var(--good)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.8rem;margin:1.6rem 0 0;padding:0}
.tiles div{background:var(--card);border:1px solid var(--rule);border-radius:.5rem;padding:.75rem .9rem}
.tiles dt{font-size:.8rem;color:var(--soft)}
.tiles dd{margin:0;font-size:1.45rem;font-weight:600;line-height:1.25;letter-spacing:-.01em}
.tiles dd+dd{font-size:.8rem;font-weight:400;color:var(--soft);letter-spacing:0}
.seal{display:inline-block;border:1px solid currentColor;border-radius:1rem;padding:.05rem .7rem;font-size:.85rem;
font-weight:600}
.good{color:var(--good)}.bad{color:var(--bad)}.findings .good,.findings .bad{color:inherit}
figure{margin:1.3rem 0 0}
figcaption{margin-bottom:.5rem}
.chart{display:grid;grid-template-columns:3rem minmax(0,1fr);gap:.5rem}
.chart.wide{grid-template-columns:minmax(0,1fr)}
svg{display:block}
svg text{fill:var(--soft);font-size:12px;font-variant-numeric:tabular-nums}
svg .row{fill:var(--ink)}
.plot{overflow:visible}
.grid{stroke:var(--grid);stroke-width:1;shape-rendering:crispEdges}
.hit{fill:transparent}.hit:hover{fill:var(--ink);fill-opacity:.09}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round;vector-effect:non-scaling-stroke}
.line.halo{stroke:var(--halo);stroke-width:5}.line.ink{stroke:var(--ink);stroke-width:2}
.s1{stroke-dasharray:7 3}.s3{stroke-dasharray:2 4}
.dot{stroke:var(--paper);stroke-width:1.5}
.c0{fill:var(--c0)}.c1{fill:var(--c1)}.c2{fill:var(--c2)}.c3{fill:var(--c3)}.c4{fill:var(--c4)}.c5{fill:var(--c5)}
.c6{fill:var(--c6)}.c7{fill:var(--c7)}
.s0{stroke:var(--c0)}.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}.s4{stroke:var(--c4)}
.s7{stroke:var(--c7)}
.h0,.h1,.h2,.h3,.h4,.h5,.h6,.h7{fill:var(--heat)}
.h0{fill-opacity:.06}.h1{fill-opacity:.16}.h2{fill-opacity:.28}.h3{fill-opacity:.4}.h4{fill-opacity:.54}
.h5{fill-opacity:.68}.h6{fill-opacity:.84}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;padding:0;margin:.6rem 0 0;font-size:.85rem}
.legend li{display:flex;align-items:center;gap:.45rem;min-width:0}
.legend svg{flex:none}
.name{font-family:ui-monospace,"Cascadia Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.92em}
.scroll{overflow-x:auto;max-width:100%}
.scroll:focus-visible,summary:focus-visible{outline:2px solid var(--c0);outline-offset:2px}
table{border-collapse:collapse;width:100%;margin:.8rem 0 0}
th,td{text-align:left;padding:.35rem .9rem .35rem 0;border-bottom:1px solid var(--rule);vertical-align:top;
overflow-wrap:normal}
td .name,th .name{display:inline-block;max-width:18rem;overflow-wrap:break-word;
vertical-align:bottom}
th{font-weight:600}
thead th{color:var(--soft);font-weight:500;white-space:nowrap}
tbody th{font-weight:400;min-width:8.5rem}tbody th .soft{white-space:nowrap}
td.number,th.number{text-align:right;white-space:nowrap}
td.time{white-space:nowrap}
td.facts{min-width:14rem;overflow-wrap:anywhere}
td.bar-cell{min-width:5rem;width:20%}td.bar-cell svg{margin-top:.4em}
.bar{border-radius:2px;overflow:hidden}
summary{cursor:pointer;color:var(--soft);margin-top:.7rem;width:fit-content}
.empty{border:1px dashed var(--rule);border-radius:.5rem;padding:1rem 1.2rem;color:var(--soft);margin-top:1.2rem}
nav{margin-top:1.6rem;font-size:.9rem}
nav a{color:inherit;margin-right:1rem;text-underline-offset:.2em;text-decoration-color:var(--c7);white-space:nowrap}
@media (max-width:34rem){.minor{display:none}body{padding-top:1.5rem}.chart{grid-template-columns:2.6rem minmax(0,1fr)}
td.bar-cell{display:none}thead .bar-cell{display:none}}
@media print{:root{color-scheme:light;--paper:#fff;--card:#fff;--ink:#000;--soft:#444;--rule:#ccc;--grid:#ddd;--c0:#0072b2;
--c1:#e69f00;--c2:#009e73;--c3:#d55e00;--c4:#56b4e9;--c5:#cc79a7;--c6:#8a7a00;--c7:#b4b2ac;--heat:#0072b2;--halo:#fff;
--good:#00694b;--bad:#a83b00}
body{max-width:none;padding:0;font-size:10pt;print-color-adjust:exact;-webkit-print-color-adjust:exact}
nav,details{display:none}figure,.tiles,tr{break-inside:avoid}h2,h3{break-after:avoid}section{margin-top:1.5rem}}
"""
