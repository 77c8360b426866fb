"""The network of the paper: I = R(Ψ(I_s, v_s, v_d), θ). `reconstruct` is Ψ, `motion` is v, `render` is R."""
