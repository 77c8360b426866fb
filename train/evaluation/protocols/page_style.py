"""Holds how the comparison page looks, in light and in dark."""

STYLE = """
:root{color-scheme:light dark;--ink:#1c2127;--soft:#5d6872;--line:#dfe4e8;--paper:#fff;--wash:#f5f7f8;--mark:#0b6b57;
--tint:#e5f4ef;--amber:#8a5a00;--amber-tint:#fdf4e1}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecef;--soft:#9aa6b0;--line:#323a41;--paper:#15191d;--wash:#1d2328;
--mark:#62d2b4;--tint:#16332c;--amber:#e9bd6a;--amber-tint:#2e2614}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:1rem}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:2.5rem 1.5rem 5rem}
.eyebrow{margin:0;color:var(--mark);font-size:.8rem;font-weight:600;letter-spacing:.08em;text-transform:uppercase}
h1{margin:.2rem 0;font-size:2rem;line-height:1.2;overflow-wrap:anywhere}
h2{margin:3rem 0 .4rem;font-size:1.35rem;border-top:1px solid var(--line);padding-top:1.6rem}
h3{margin:2rem 0 .6rem;font-size:1.05rem}
h3 small,th small{font-weight:400;color:var(--soft)}
.lead{color:var(--soft);margin:.2rem 0 1rem}
code{font:.85em ui-monospace,Consolas,monospace;background:var(--wash);padding:.1em .35em;border-radius:4px}
nav{display:flex;flex-wrap:wrap;gap:.5rem}
nav a{padding:.3rem .8rem;border:1px solid var(--line);border-radius:2rem;color:inherit;text-decoration:none;
font-size:.9rem}
nav a:hover{border-color:var(--mark);color:var(--mark)}
.warning{border:1px solid var(--amber);background:var(--amber-tint);border-radius:10px;padding:.7rem 1rem;
font-size:.92rem}
.warning b{color:var(--amber)}
i.rule{font-style:normal;font-weight:600;font-size:.68rem;color:var(--amber);background:var(--amber-tint);
border:1px solid var(--amber);border-radius:4px;padding:0 .3em;white-space:nowrap}
.counts{display:flex;flex-wrap:wrap;gap:.2rem 1.5rem;list-style:none;margin:0 0 .8rem;padding:0;color:var(--soft)}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:10px;margin:.6rem 0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.4rem .7rem;text-align:right;white-space:nowrap;border-top:1px solid var(--line)}
thead th{border-top:0;background:var(--wash);font-size:.9rem}
th:first-child{text-align:left;font-weight:500;position:sticky;left:0;background:var(--paper)}
thead th:first-child{background:var(--wash);font-weight:600}
tr.group th{background:var(--wash);color:var(--soft);font-size:.8rem;font-weight:600;white-space:normal}
th a{color:inherit;text-decoration:none}
th a:hover{text-decoration:underline}
th i{font-style:normal;color:var(--mark)}
td span{display:block;font-weight:500}
td small{display:block;color:var(--soft);font-size:.75rem}
td.best{background:var(--tint)}
td.best span{color:var(--mark);font-weight:700}
td.none,tr.none td{color:var(--soft)}
tr.none td{text-align:left;white-space:normal}
.published td,.published tr:not(.group) th{color:var(--soft);font-weight:400}
.published tr.group th{background:var(--amber-tint);color:var(--amber)}
table.ablations{font-size:.86rem}
table.ablations th,table.ablations td{padding:.3rem .5rem}
table.ablations thead th:not(:first-child){text-align:right}
table.ablations i.rule{display:block;width:max-content;margin-left:auto}
table.ablations thead tr.cases th:not(:first-child){text-align:center;color:var(--soft);
border-bottom:1px solid var(--line);font-weight:500}
table.ablations td small{white-space:normal}
table.ablations tbody th{white-space:normal;min-width:13rem}
table.ablations th small{display:block}
tr.printed td,tr.printed th{color:var(--soft)}
tr.own td,tr.own th:first-child{background:var(--tint)}
details{margin-top:1.2rem}
summary{cursor:pointer;font-weight:600}
.notes{color:var(--soft);font-size:.88rem;padding-left:1.1rem;overflow-wrap:anywhere}
.notes li{margin:.25rem 0}
.pair{margin:.9rem 0}
.pair p{margin:0 0 .3rem;color:var(--soft);font:.8rem ui-monospace,Consolas,monospace}
.strip{display:flex;gap:.6rem;overflow-x:auto}
figure{margin:0;width:144px;flex:none}
figure:nth-child(2){margin-right:.8rem}
.window{width:144px;height:144px;overflow:hidden;border-radius:8px;background:var(--wash)}
.window img{display:block;height:144px;max-width:none}
.nothing{display:grid;place-items:center;color:var(--soft);font-size:.85rem}
figcaption{font-size:.82rem;line-height:1.35;margin-top:.3rem}
figcaption b{font-weight:600;overflow-wrap:anywhere}
figcaption span{display:block;color:var(--soft);font-size:.76rem}
dl{margin:.8rem 0;display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:1rem 1.6rem}
dt{font-weight:600}
dd{margin:.1rem 0 0;color:var(--soft);font-size:.9rem}
dl div:target{background:var(--tint);outline:.5rem solid var(--tint);border-radius:2px}
@media print{nav{display:none}details{break-inside:avoid}}
"""
