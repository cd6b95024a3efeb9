# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""
@article{Zhu2017,
    author = {Zhu, Yanan and Ouyang, Qi and Mao, Youdong},
    title = {A deep convolutional neural network approach to single-particle recognition in cryo-electron microscopy},
    journal = {BMC Bioinformatics},
    volume = {18},
    pages = {348},
    year = {2017},
    doi = {https://doi.org/10.1186/s12859-017-1757-y}
}
"""
