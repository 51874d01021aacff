"""Share a model on the Hugging Face hub, or in a folder, with a card that tells what it was measured to do and not.

Two files are shared: the checkpoint as it stands (see `checkpoints`) and README.md, the card. Nothing in them is code.
Only `push_to_hub` sends, and only `from_pretrained` of a name that is no folder here fetches.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from . import __version__
from .errors import InputError
from .files import whole_file
from .model_card import LIBRARY, model_card
from .predict import Predictor

MODEL_FILE = "model.safetensors"
CARD_FILE = "README.md"

PathLike = str | os.PathLike[str]


def save_pretrained(
    checkpoint: PathLike,
    folder: PathLike,
    *,
    results: PathLike | None = None,
    license: str | None = None,
    repo_id: str = "OWNER/NAME",
) -> Path:
    """Put a model and its card into a folder, to look at or to share by hand; nothing is sent.

    Args:
        checkpoint: a trained model; its bytes are kept. Its header names the recipe, and with it the path of your own
            starting weights, if it was trained from such.
        folder: gets `model.safetensors` and `README.md`; what is there of these names is replaced.
        results: `results.json` of an evaluation of this very checkpoint; without it the card says that none is given.
        license: identifier of the licence you give the weights, such as "mit"; None names none.
        repo_id: where it will lie on the hub, for the card's example.

    Raises:
        InputError: the checkpoint or the results cannot be read, or the results are another checkpoint's.
    """
    try:
        card = model_card(checkpoint, results=results, license=license, repo_id=repo_id)
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{results} is damaged ({type(error).__name__} {error}); evaluate again") from error
    folder = Path(folder)
    with whole_file(folder / MODEL_FILE) as temporary:
        shutil.copyfile(checkpoint, temporary)
    with whole_file(folder / CARD_FILE) as temporary:
        temporary.write_text(card)
    return folder


def push_to_hub(
    checkpoint: PathLike,
    repo_id: str,
    *,
    results: PathLike | None = None,
    license: str | None = None,
    private: bool = True,
    token: str | None = None,
) -> str:
    """Send a model and its card to the hub, and return the address of what was sent.

    Args:
        checkpoint: see `save_pretrained`, as are `results` and `license`.
        repo_id: "owner/name"; made if there is none.
        private: whether others are kept from seeing it. A repository that is public already is then refused.
        token: of your account, with the right to write; None takes the one of `hf auth login`.

    Raises:
        InputError: see `save_pretrained`; or the hub cannot be reached or refuses, or the repository is public.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=token, library_name=LIBRARY, library_version=__version__)
    with tempfile.TemporaryDirectory() as place:
        folder = save_pretrained(checkpoint, place, results=results, license=license, repo_id=repo_id)
        try:
            hub.create_repo(repo_id, private=private, exist_ok=True)
            public = not hub.model_info(repo_id).private
            if not (private and public):
                sent = hub.upload_folder(
                    repo_id=repo_id,
                    folder_path=folder,
                    allow_patterns=[MODEL_FILE, CARD_FILE],
                    commit_message=f"Share a model of {LIBRARY} {__version__}",
                )
        except Exception as error:  # requests' or httpx's, by the version
            raise InputError(f"{repo_id} could not be sent ({_first_line(error)}); see `hf auth login`") from error
    if private and public:
        raise InputError(f"{repo_id} is public, so nothing was sent; pass private=False to show the model to everyone")
    return str(sent.commit_url)


def from_pretrained(source: PathLike, *, revision: str | None = None, token: str | None = None) -> Predictor:
    """Load a shared model: from a folder if there is one of that name, else from the hub.

    Args:
        source: a folder of `save_pretrained`, or "owner/name" on the hub, of which the weights alone are fetched.
        revision: branch, tag or commit on the hub.
        token: of your account, for a private model; None takes the one of `hf auth login`.

    Raises:
        InputError: there is no such folder or model, it cannot be reached, or it is no model of this program.
    """
    if Path(source).is_dir():
        return Predictor.load(Path(source) / MODEL_FILE)
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(
            os.fspath(source),
            MODEL_FILE,
            revision=revision,
            token=token,
            library_name=LIBRARY,
            library_version=__version__,
        )
    except Exception as error:  # requests' or httpx's, by the version
        raise InputError(
            f"{source} is no folder here, and the hub gave no {MODEL_FILE} of that name ({_first_line(error)}); "
            "correct the name, or see `hf auth login` for a private model"
        ) from error
    return Predictor.load(path)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
