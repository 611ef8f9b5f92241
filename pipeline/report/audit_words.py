"""What an audit's tables mean, in words: attacks, figures, thresholds."""

from __future__ import annotations

from collections.abc import Mapping

ATTACKS: Mapping[str, str] = {
    "clean": "No attack: clean photographs are searched among the clean originals. It shows what the recogniser can do "
    "where nothing is protected. One that fails here proves nothing by failing on the release.",
    "naive": "The attacker searches the clean originals by a released image: whom does it look like?",
    "reverse": "The other way round: the attacker searches the release by a photograph of the person.",
    "parrot": "Like meets like: a released image is searched among the other released images. They stand for what an "
    "attacker makes who runs the same operator.",
    "own_parrot": "The attacker does run the operator, with noise of their own, on other photographs of everybody (T1) "
    "or the very ones (T2), and searches among the results by a released image.",
    "fine_tuned": "The attacker has pairs of released image and original of known people, trains this recogniser's own "
    "network on them further, and searches for other people. The known people are not in the gallery.",
    "fine_tuned_parrot": "The same network, among images that the attacker put through the operator.",
    "trained inverter": "The attacker trains a network on pairs of known people that makes originals of released "
    "images, lets it make those of other people, and searches by them.",
    "softmax": "The attacker knows who is in half of the released images, trains a linear classifier on them, and "
    "names the people in the other half. Chance is one in the number of people.",
    "perceptron": "The same with a hidden layer.",
    "map_to_clean": "The attacker holds released images of known people, learns how the operator moves faces, undoes "
    "that, and searches for other people. The known people are not in the gallery, so that chance is larger.",
    "permutation of tiles": "The attacker looks for an order of tiles that makes released images fit their sources, "
    "lays other images in that order, and searches by them.",
    "inverse ODE": "The attacker runs the job's model backwards from each released image, and searches by the result.",
}
"""Each attack in a sentence or two."""
LAYOUTS: Mapping[str, str] = {
    "pixels": "compares thumbnails of 16 × 16 pixels and looks at no face",
    "phash": "compares perceptual hashes of 64 bits and looks at no face",
    "colours": "compares how often each shade comes and looks at no face",
}
"""Attackers that are no recognisers."""
TERMS: Mapping[str, str] = {
    "found first": "the share of queries whose nearest entry in the gallery is the right person, with the 95 % "
    "interval over people (photographs of one person are not independent)",
    "chance": "what guessing finds in the same gallery",
    "allowed": "the release is not sealed where the whole interval lies above this. With many attacks some intervals "
    "lie above chance by accident, about one in forty; the limit is at least twice chance, which accident seldom "
    "reaches, and it is not raised for the number of attacks, so that an error falls on the safe side",
    "p (Holm)": "the probability that guessing does as well, corrected for the number of attacks; under .05, an attack "
    "does beat guessing",
    "TAR at FAR": "the share of pairs of one person that are recognised, at the threshold where so many pairs of two "
    "people are taken for one (false acceptance rate)",
    "EER": "the equal error rate: .5 is guessing, 0 is perfect",
    "D_sys": "linkability of releases of one person to each other, from 0 (none) to 1; beside it the value by chance",
}
"""The words in the tables' heads."""
UTILITY: Mapping[str, str] = {
    "faces · images": "released images",
    "faces · with face": "share with a face",
    "faces · with face if source has": "share with a face, of those whose source has one",
    "faces · same count": "share with as many faces as the source",
    "pose · faces": "faces whose pose was compared",
    "pose · eyes · mean": "how far the eyes have moved, in eye distances, mean",
    "pose · eyes · median": "the same, median",
    "pose · roll · mean": "how far the line of the eyes has turned, in degrees, mean",
    "pose · roll · median": "the same, median",
    "pose · scale · mean": "|ln| of the ratio of the eye distances, mean",
    "pose · scale · median": "the same, median",
    "landmarks · faces": "faces whose landmarks were compared",
    "landmarks · error · mean": "how far five landmarks have moved, in eye distances, mean",
    "landmarks · error · median": "the same, median",
    "landmarks · yaw · mean": "how far the head has turned aside, in degrees, mean",
    "landmarks · yaw · median": "the same, median",
    "landmarks · pitch · mean": "how far it has nodded, in degrees, mean",
    "landmarks · pitch · median": "the same, median",
    "landmarks · roll · mean": "how far it has tilted, in degrees, mean",
    "landmarks · roll · median": "the same, median",
    "psnr · pairs": "pairs whose pixels were compared",
    "psnr · mean": "likeness to the source (PSNR in dB), mean",
    "psnr · unchanged": "images equal to their source",
    "task · labels": "labels that a classifier was trained on",
    "task · trained on": "released images that it was trained on",
    "task · tested on": "originals that it was tested on",
    "task · accuracy": "share of these that got their label",
    "task · majority": "share for always answering the commonest label",
}
"""Figures of utility by their path in `audit.json`."""
ORIGINS: Mapping[str, str] = {
    "1e-2": "1 of 100 pairs of two people among these originals is nearer",
    "1e-3": "1 of 1,000 pairs of two people among these originals is nearer",
    "1e-4": "1 of 10,000 pairs of two people among these originals is nearer",
    "deepface": "deepface's own for this recogniser",
}
"""Where each threshold comes from."""
