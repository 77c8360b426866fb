"""GenHead, the 4D GAN that stage 1 learns from (paper, section 3.1): noise, FLAME and a camera become a picture."""
