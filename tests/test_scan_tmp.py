import importlib.util, sys
from dataclasses import replace
from latentprobe.methods import methods
from latentprobe.generation import Decoding
O = methods.get("organism")
FREE = replace(O, entry="predicted", max_segments=None, close_forced=False)
def test_scan(random_latent, problems):
    for seed in range(60):
        m = random_latent(FREE, seed)
        outs=[]
        for i in (0,1):
            t = m.generate(problems[i], max_new_tokens=14)
            outs.append(" ".join(r[0] if r in ("open","slot","close") else "." for r in t.layout.roles[t.layout.n_prompt:])+" "+t.stop_reason)
        print(seed, outs)
    for seed in range(8):
        m = random_latent(FREE, 0)
        t = m.generate(problems[0], seed=seed, decoding=Decoding(14, 1.5))
        print("sampled", seed, " ".join(r[0] if r in ("open","slot","close") else "." for r in t.layout.roles[t.layout.n_prompt:]), t.stop_reason)
